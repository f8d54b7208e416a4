"""bitsandbytes: int8 rows repacked exactly; nf4 and fp4, whose levels no grid of MLX's has, to plain floats.

int8: ``weight`` int8 (out, in) with ``SCB`` (out,): w = weight * SCB / 127. 4 bits: ``weight`` two codes a byte (the
first in the high half), ``weight.quant_map`` (16 levels), ``weight.absmax`` a block, itself quantized where
``nested_absmax`` stands beside it, and a JSON ``quant_state`` with shape, block sizes and dtype.
"""

import json
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import WeightError
from ...weights import Weights
from ..bits import pack
from . import groups

STATES = ("nf4", "fp4")
MOST_BLOCK = 1 << 16  # numbers; theirs are 64 to 4096


def unpack(weights: Weights, settings: dict[str, Any], where: object) -> tuple[Weights, dict[str, Any] | None]:
    weights = dict(weights)
    found = groups.each(weights, "SCB", lambda path: _int8(weights, path))
    for kind in STATES:
        groups.each(weights, f"weight.quant_state.bitsandbytes__{kind}",
                    lambda path, kind=kind: _four_bits(weights, path, kind))
    weights = {name: w for name, w in weights.items() if not name.endswith(".weight_format")}
    if not (found or (not weights and settings.get("load_in_8bit"))):
        return weights, None
    return weights, groups.quantization(weights, 8)


def _int8(weights: Weights, path: str) -> None:
    rows = groups.take(weights, f"{path}.SCB", 1, "float").astype(mx.float32)[:, None] / 127
    weight = groups.take(weights, f"{path}.weight", 2, "int8")
    groups.expect(rows.shape[:1], weight.shape[:1], f"{path}.SCB")
    width = weight.shape[1]
    size = groups.group_size(width, 1, path)
    weights[f"{path}.weight"] = pack((weight.astype(mx.int32) + 128).astype(mx.uint32), 8)
    weights[f"{path}.scales"] = groups.repeated(rows, width, size)
    weights[f"{path}.biases"] = groups.repeated(-128 * rows, width, size)


def _four_bits(weights: Weights, path: str, kind: str) -> None:
    name = f"{path}.weight"
    state = _state(groups.take(weights, f"{name}.quant_state.bitsandbytes__{kind}", 1, "bytes"), name)
    codes = groups.take(weights, name, 2).view(mx.uint8).flatten()  # its bytes, under whatever dtype they are kept
    levels = groups.take(weights, f"{name}.quant_map", 1, "float")
    nested = f"{name}.nested_absmax" in weights
    absmax = groups.take(weights, f"{name}.absmax", 1, "bytes" if nested else "float")
    groups.expect(levels.shape, (16,), f"{name}.quant_map")
    if nested:
        outer = groups.take(weights, f"{name}.nested_absmax", 1, "float")
        table = groups.take(weights, f"{name}.nested_quant_map", 1, "float")
        groups.expect(table.shape, (256,), f"{name}.nested_quant_map")
        groups.expect(outer.shape, (-(-absmax.size // state["nested_blocksize"]),), f"{name}.nested_absmax")
        scale = mx.repeat(outer, state["nested_blocksize"])[:absmax.size]
        absmax = table[absmax] * scale + state["nested_offset"]
    shape = state["shape"]
    count = int(np.prod(shape))
    blocks = -(-count // state["blocksize"])
    groups.expect((codes.size * 2, absmax.size), (count + count % 2, blocks), name)
    nibbles = mx.stack([codes >> 4, codes & 15], -1).flatten()[:count]
    values = levels[nibbles] * mx.repeat(absmax.astype(mx.float32), state["blocksize"])[:count]
    weights[name] = values.reshape(shape).astype(groups.DTYPES[state["dtype"]])


def _state(packed: mx.array, name: str) -> dict[str, Any]:
    """The JSON in a tensor of bytes, checked."""
    try:
        state = json.loads(bytes(np.array(packed, np.uint8)))
        found = {"shape": [int(n) for n in state["shape"]], "blocksize": int(state["blocksize"]),
                 "nested_blocksize": int(state.get("nested_blocksize", 1)), "dtype": str(state["dtype"]),
                 "nested_offset": float(state.get("nested_offset", 0.0))}
    except (ValueError, KeyError, TypeError) as error:
        raise WeightError("the quantization state can't be read", where=name) from error
    sizes = (found["blocksize"], found["nested_blocksize"])
    if found["dtype"] not in groups.DTYPES or not all(1 <= n <= MOST_BLOCK for n in sizes) or not found["shape"]:
        raise WeightError("the quantization state can't be right", where=name, found=str(found)[:100])
    return found
