"""compressed-tensors (llm-compressor): packed integers repacked exactly, whole int8 too, float8 to plain floats.

pack-quantized: ``weight_packed`` (out, in * bits / 32) of codes raised by half their range, ``weight_scale``
(out, groups), ``weight_zero_point`` (out * bits / 32, groups) packed along the rows, ``weight_shape``.
int-quantized and float-quantized: ``weight`` in int8 or float8 with ``weight_scale`` for a tensor, a row or a group.
"""

from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from ...weights import Weights
from ..bits import pack
from ..bits import unpack as codes_of
from . import groups

INNER = ("input_scale", "input_zero_point", "output_scale", "weight_shape", "input_global_scale")
"""What says nothing about the weights themselves: scales of activations, a shape."""


def unpack(weights: Weights, settings: dict[str, Any], where: object) -> tuple[Weights, dict[str, Any] | None]:
    schemes = settings.get("config_groups")
    if not isinstance(schemes, dict) or not schemes:
        raise ConfigError("config_groups are missing", where=f"{where}: quantization_config")
    bits = {_bits(scheme, where) for scheme in schemes.values()}
    if len(bits) > 1:
        raise ConfigError("groups of different bits aren't read", where=f"{where}: quantization_config.config_groups",
                          found=sorted(bits), hint="Look for an mlx-community conversion of the model.")
    weights, [count] = dict(weights), bits
    for path in groups.modules(weights, "weight_packed"):
        _packed(weights, path, count)
    for path in groups.modules(weights, "weight_scale"):
        _whole(weights, path, settings.get("dtype"))
    weights = {name: w for name, w in weights.items() if not name.endswith(tuple(f".{n}" for n in INNER))}
    plain = not any(name.endswith(".scales") for name in weights) if weights else _is_float(schemes)
    if plain:
        return weights, None
    return weights, groups.quantization(weights, count)


def _is_float(schemes: dict[str, Any]) -> bool:
    return any(scheme["weights"].get("type") == "float" for scheme in schemes.values())


def _bits(scheme: Any, where: object) -> int:
    own = scheme.get("weights") if isinstance(scheme, dict) else None
    bits = own.get("num_bits") if isinstance(own, dict) else None
    if bits not in (4, 8):
        raise ConfigError("this quantization can't be read", found=repr(bits), expected="4 or 8",
                          where=f"{where}: quantization_config.config_groups.*.weights.num_bits")
    return int(bits)


def _packed(weights: Weights, path: str, bits: int) -> None:
    words = groups.take(weights, f"{path}.weight_packed", 2)
    scales = groups.take(weights, f"{path}.weight_scale", 2)
    zeros = weights.pop(f"{path}.weight_zero_point", None)
    order = weights.pop(f"{path}.weight_g_idx", None)
    out, width = words.shape[0], words.shape[1] * 32 // bits
    groups.expect(scales.shape, (out, scales.shape[1]), f"{path}.weight_scale")
    half = 1 << (bits - 1)
    scale, centre = scales.astype(mx.float32), float(half)
    if zeros is not None:
        if zeros.dtype in (mx.int32, mx.uint32):
            zeros = codes_of(zeros.T, bits)[:, :out].T.astype(mx.float32) - half
        groups.expect(zeros.shape, tuple(scales.shape), f"{path}.weight_zero_point")
        centre = zeros.astype(mx.float32) + half
    offset = -scale * centre
    if order is not None and (np.array(order) >= 0).all():
        index = mx.array(np.array(order))
        codes = codes_of(words, bits).astype(mx.float32)
        weights[f"{path}.weight"] = (codes * scale[:, index] + offset[:, index]).astype(scales.dtype)
        return
    size = groups.group_size(width, scales.shape[1], path)
    weights[f"{path}.weight"] = words.view(mx.uint32)
    weights[f"{path}.scales"] = groups.repeated(scale, width, size)
    weights[f"{path}.biases"] = groups.repeated(offset, width, size)


def _whole(weights: Weights, path: str, dtype: Any) -> None:
    from .fp8 import spread

    weight, scale = groups.take(weights, f"{path}.weight", 2), weights.pop(f"{path}.weight_scale")
    zeros = weights.pop(f"{path}.weight_zero_point", None)
    if weight.dtype == mx.uint8:  # float8, as it is read
        plain = mx.from_fp8(weight, mx.float32) * spread(scale.astype(mx.float32), weight.shape, path)
        weights[f"{path}.weight"] = plain.astype(groups.DTYPES.get(str(dtype), mx.bfloat16))
        return
    out, width = weight.shape
    per_row = mx.broadcast_to(scale.astype(mx.float32).reshape(-1, *scale.shape[1:] or (1,)), (out, _columns(scale)))
    size = groups.group_size(width, per_row.shape[1], path)
    shift = 128.0 if zeros is None else zeros.astype(mx.float32).reshape(per_row.shape) + 128
    codes = (weight.astype(mx.int32) + 128).astype(mx.uint32)
    weights[f"{path}.weight"] = pack(codes, 8)
    weights[f"{path}.scales"] = groups.repeated(per_row, width, size)
    weights[f"{path}.biases"] = groups.repeated(-per_row * shift, width, size)


def _columns(scale: mx.array) -> int:
    return scale.shape[-1] if scale.ndim == 2 else 1
