"""Weights in large pages, where our kernels run: read there from a file, or copied there once they are made.

A processor reads such memory a fifth faster, and the system hands it out in a fraction of the time. Elsewhere, and for
what the kernels don't know, MLX reads and keeps weights itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxlm.kernels.choice import CHOICE

DTYPES = {"BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "U32": mx.uint32,
          "I32": mx.int32, "U64": mx.uint64, "I64": mx.int64, "F16": mx.float16, "BF16": mx.bfloat16,
          "F32": mx.float32, "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8}
LONGEST = 2**31 - 1  # of an array's axis
FAILED = "[mlxlm.read]"


def read(file: Path, header: dict[str, Any], start: int) -> dict[str, mx.array] | None:
    """The tensors of a safetensors file by name, each read when it is needed; None where MLX has to read them.

    ``header`` has been checked; the data begin at byte ``start``. Reading fails with a RuntimeError that begins with
    `FAILED`. Raises RuntimeError for a file that can't be opened.
    """
    if CHOICE.module is None:
        return None
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if any(e["dtype"] not in DTYPES or max(e["shape"], default=0) > LONGEST for e in entries.values()):
        return None
    order = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    tensors = [(start + entries[n]["data_offsets"][0], entries[n]["shape"], DTYPES[entries[n]["dtype"]]) for n in order]
    return dict(zip(order, CHOICE.module.read(str(file), tensors), strict=True))


def settle(model: nn.Module) -> None:
    """Has weights lie in large pages, row by row; those that don't yet are copied when first needed."""
    if CHOICE.module is None:
        return
    named: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # pyright: ignore[reportAssignmentType]
    arrays = {id(array): array for _, array in named}  # what two modules share stays one
    copies = dict(zip(arrays, CHOICE.module.settle(list(arrays.values())), strict=True))
    model.update(tree_unflatten([(name, copies[id(w)]) for name, w in named if copies[id(w)] is not None]))
