"""Narrow scales that stand for float32 numbers: the same numbers with less to read, where a kernel takes them so.

In other quantized modules the numbers have the scales' dtype; what a module looks up has the dtype of its numbers.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module's weight is stored in groups with scales."""
    return "scales" in module and hasattr(module, "bits")


def stand_for(model: nn.Module, dtype: mx.Dtype) -> set[int]:
    """Says that the numbers of all quantized modules have ``dtype``; returns the ids of the arrays that can stay narrow
    for it, which are float16 or bfloat16 scales and biases of float32 numbers."""
    kept = set()
    for _, module in model.named_modules():
        if is_quantized(module):
            narrow = dtype == mx.float32 and module["scales"].dtype in FLOATS[1:]
            # A name, which can be copied; it is compared lest it outlives the scales.
            module._narrow = str(module["scales"].dtype) if narrow else None
            kept |= {id(module[name]) for name in ("scales", "biases") if narrow and name in module}
    return kept


def number_dtype(module: Any) -> mx.Dtype | None:
    """The dtype of a quantized module's numbers; None where the scales don't tell, as those of mxfp4."""
    dtype = mx.float32 if _narrow(module) else module["scales"].dtype
    return dtype if dtype in FLOATS else None


def _narrow(module: Any) -> bool:
    return getattr(module, "_narrow", None) == str(module["scales"].dtype)


def in_number_dtype(module: Any) -> dict[str, mx.array]:
    """A quantized module's scales and biases, with the dtype of its numbers."""
    dtype = number_dtype(module)
    own = {name: module[name] for name in ("scales", "biases") if name in module}
    return own if dtype is None else {name: array.astype(dtype) for name, array in own.items()}


def widen(model: nn.Module, kept: bool) -> None:
    """Gives narrow scales the dtype that they stand for: MLX's own operations would convert them in every call.

    With ``kept`` modules whose operation reads them as they are keep them.
    """
    for _, module in model.named_modules():
        as_they_are = kept and getattr(module, "reads_narrow_scales", False)
        if is_quantized(module) and _narrow(module) and not as_they_are:
            module.update(in_number_dtype(module))
