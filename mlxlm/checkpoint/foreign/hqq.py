"""HQQ as transformers saves it: codes folded along their rows, repacked exactly where groups lie along the inputs.

``W_q`` holds codes (groups, group_size), or with axis 0 (group_size, groups), in words that take a code from each equal
part of the rows, the first part in the highest bits; ``scale`` and ``zero`` a number a group: w = (q - zero) * scale.
``nbits``, ``group_size``, ``axis``, ``shape`` and the name of the ``packing`` are tensors too. Groups across outputs
(axis 0), or of a size that MLX lacks, become plain floats.
"""

import math
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import WeightError
from ...weights import Weights
from ..bits import pack
from . import groups

PACKINGS = {"8bit_u8": (8, 1, mx.uint8), "4bit_u8": (4, 2, mx.uint8), "3bit_32": (3, 10, mx.uint32),
            "2bit_u8": (2, 4, mx.uint8), "1bit_u8": (1, 8, mx.uint8)}
"""The bits of a code, the codes of a word, and the words."""
STORED = {8: 8, 6: 6, 5: 5, 4: 4, 3: 3, 2: 2, 1: 2, 1.58: 2}
"""``nbits`` to MLX's bits."""
NOTES = ("nbits", "group_size", "axis", "shape", "packing", "view_as_float", "unpack_view_dtype", "compute_dtype",
         "channel_wise", "optimize", "round_zero", "quant_scale", "quant_zero", "offload_meta", "encoded_state_dict",
         "stores_quant_config")


def unpack(weights: Weights, settings: dict[str, Any], where: object) -> tuple[Weights, dict[str, Any] | None]:
    weights = dict(weights)
    done = groups.each(weights, "W_q", lambda path: _module(weights, path))
    bits = {path: found for path, found in done.items() if found is not None}
    if not bits:
        return weights, None if weights else _usual(settings)
    return weights, groups.quantization(weights, bits, settings.get("group_size"))


def _usual(settings: dict[str, Any]) -> dict[str, Any] | None:
    """What config.json alone says of the weights."""
    chosen = settings.get("quant_config")
    chosen = chosen.get("weight_quant_params") if isinstance(chosen, dict) else None
    if not isinstance(chosen, dict) or chosen.get("nbits") not in STORED or chosen.get("axis") == 0:
        return None
    size = chosen.get("group_size")
    return {"group_size": size if size in groups.GROUPS else 64, "bits": STORED[chosen["nbits"]], "mode": "affine"}


def _module(weights: Weights, path: str) -> int | None:
    """Puts the module's tensors into MLX's layout; returns its bits, None for plain floats."""
    notes = _notes(weights, path)
    (out, width), size = notes["shape"], notes["group_size"]
    count = out * width // size
    rows, columns = (count, size) if notes["axis"] else (size, count)
    scale, zero = (groups.take(weights, f"{path}.{name}", 2, "float") for name in ("scale", "zero"))
    groups.expect(scale.shape, (count, 1) if notes["axis"] else (1, count), f"{path}.scale")
    if zero.shape != scale.shape:
        groups.expect(zero.shape, tuple(scale.shape), f"{path}.zero")
    codes = _codes(weights, path, notes["packing"], rows, columns)
    bits, wide = STORED[notes["nbits"]], scale.astype(mx.float32)
    if not notes["axis"] or width % size or size % 32:
        plain = (codes.astype(mx.float32) - zero.astype(mx.float32)) * wide
        weights[f"{path}.weight"] = plain.reshape(out, width).astype(scale.dtype)
        return None
    ours = groups.group_size(width, width // size, path)
    weights[f"{path}.weight"] = pack(mx.minimum(codes, 2**bits - 1).reshape(out, width), bits)
    weights[f"{path}.scales"] = groups.repeated(wide.reshape(out, -1), width, ours)
    weights[f"{path}.biases"] = groups.repeated((-wide * zero.astype(mx.float32)).reshape(out, -1), width, ours)
    return bits


def _codes(weights: Weights, path: str, packing: str, rows: int, columns: int) -> mx.array:
    bits, parts, kind = PACKINGS[packing]
    words = groups.take(weights, f"{path}.W_q", 2)
    if words.dtype in (*groups.FLOATS, mx.int32):  # the same bytes under another name
        words = words.view(kind)
    groups.typed(f"{path}.W_q", words, "words" if kind == mx.uint32 else "bytes")
    groups.expect(words.shape, (-(-rows // parts), columns), f"{path}.W_q")
    mask = (1 << bits) - 1
    return mx.concatenate([(words >> bits * (parts - 1 - k)) & mask for k in range(parts)])[:rows].astype(mx.uint32)


def _notes(weights: Weights, path: str) -> dict[str, Any]:
    """The settings that lie beside a module's codes, checked."""
    held = {name: weights.pop(f"{path}.{name}") for name in NOTES if f"{path}.{name}" in weights}
    for name in ("nbits", "group_size", "axis", "shape", "packing"):
        if name not in held:
            groups.take(held, f"{path}.{name}", 1)
    read = {name: np.array(w.astype(mx.float32) if w.dtype in groups.FLOATS else w) for name, w in held.items()}
    found: dict[str, Any] = {name: read[name].item() if read[name].size == 1 else None
                             for name in ("nbits", "group_size", "axis")}
    found["nbits"] = next((bits for bits in STORED if math.isclose(bits, found["nbits"] or 0, rel_tol=1e-3)), None)
    found["shape"] = read["shape"].astype(int).tolist()
    found["packing"] = bytes(read["packing"].astype(np.uint8)).decode("latin-1")
    shape, size, packing = found["shape"], found["group_size"], PACKINGS.get(found["packing"])
    right = (packing is not None and found["nbits"] is not None and found["nbits"] <= packing[0]
             and found["axis"] in (0, 1) and isinstance(shape, list) and len(shape) == 2 and min(shape) > 0
             and isinstance(size, int) and size > 0 and math.prod(shape) % size == 0)
    if not right or any(read[name].any() for name in ("quant_scale", "quant_zero") if name in read):
        raise WeightError("the quantization's settings can't be right, or are of a kind that isn't read",
                          where=f"{path}.W_q", found=str(found)[:200], hint=groups.OTHERWISE)
    return found
