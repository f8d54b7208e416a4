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
                          found=sorted(bits), hint=groups.OTHERWISE)
    weights, [count] = dict(weights), bits
    if all(scheme["weights"].get("symmetric") is False for scheme in schemes.values()):
        _check_zeros(weights)
    groups.each(weights, "weight_packed", lambda path: _packed(weights, path, count))
    groups.each(weights, "weight_scale", lambda path: _whole(weights, path, settings.get("dtype")))
    weights = {name: w for name, w in weights.items() if not name.endswith(tuple(f".{n}" for n in INNER))}
    plain = not any(name.endswith(".scales") for name in weights) if weights else _is_float(schemes)
    if plain:
        return weights, None
    return weights, groups.quantization(weights, count)


def _check_zeros(weights: Weights) -> None:
    for path in groups.modules(weights, "weight_scale"):
        if f"{path}.weight_zero_point" not in weights:
            groups.take(weights, f"{path}.weight_zero_point", 2)


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
    words = groups.take(weights, f"{path}.weight_packed", 2, "words")
    scales = groups.take(weights, f"{path}.weight_scale", 2, "float")
    zeros = weights.pop(f"{path}.weight_zero_point", None)
    order = weights.pop(f"{path}.weight_g_idx", None)
    out, width = words.shape[0], words.shape[1] * 32 // bits
    groups.expect(scales.shape, (out, scales.shape[1]), f"{path}.weight_scale")
    if f"{path}.weight_shape" in weights:
        said = np.array(groups.take(weights, f"{path}.weight_shape", 1, "indices")).tolist()
        groups.expect((out, width), tuple(said), f"{path}.weight_packed")
    half = 1 << (bits - 1)
    scale, centre = scales.astype(mx.float32), float(half)
    if zeros is not None:
        if zeros.dtype in groups.KINDS["words"]:
            groups.expect(zeros.shape, (-(-out * bits // 32), scales.shape[1]), f"{path}.weight_zero_point")
            zeros = codes_of(zeros.T, bits)[:, :out].T.astype(mx.float32) - half
        groups.expect(zeros.shape, tuple(scales.shape), f"{path}.weight_zero_point")
        centre = zeros.astype(mx.float32) + half
    offset = -scale * centre
    if order is not None and (np.array(order) >= 0).all():
        index = mx.array(groups.order_of(f"{path}.weight_g_idx", order, width, scales.shape[1]))
        codes = codes_of(words, bits).astype(mx.float32)
        weights[f"{path}.weight"] = (codes * scale[:, index] + offset[:, index]).astype(scales.dtype)
        return
    size = groups.group_size(width, scales.shape[1], path)
    weights[f"{path}.weight"] = words.view(mx.uint32)
    weights[f"{path}.scales"] = groups.repeated(scale, width, size)
    weights[f"{path}.biases"] = groups.repeated(offset, width, size)


def _whole(weights: Weights, path: str, dtype: Any) -> None:
    from .fp8 import spread

    weight = groups.take(weights, f"{path}.weight", 2)
    scale = groups.take(weights, f"{path}.weight_scale", None, "float").astype(mx.float32)
    zeros = weights.pop(f"{path}.weight_zero_point", None)
    if weight.dtype == mx.uint8:  # float8, as it is read
        plain = mx.from_fp8(weight, mx.float32) * spread(scale, weight.shape, f"{path}.weight_scale")
        weights[f"{path}.weight"] = plain.astype(groups.DTYPES.get(str(dtype), mx.bfloat16))
        return
    out, width = groups.typed(f"{path}.weight", weight, "int8").shape
    if zeros is not None:
        groups.expect(zeros.shape, tuple(scale.shape), f"{path}.weight_zero_point")
        zeros = _rows(zeros, out, f"{path}.weight_zero_point")
    scale = _rows(scale, out, f"{path}.weight_scale")
    size = groups.group_size(width, scale.shape[1], path)
    shift = 128.0 if zeros is None else zeros.astype(mx.float32) + 128
    codes = (weight.astype(mx.int32) + 128).astype(mx.uint32)
    weights[f"{path}.weight"] = pack(codes, 8)
    weights[f"{path}.scales"] = groups.repeated(scale, width, size)
    weights[f"{path}.biases"] = groups.repeated(-scale * shift, width, size)


def _rows(each: mx.array, out: int, name: str) -> mx.array:
    """What is given for the tensor, for each row or for each group of it, as (out, groups)."""
    if each.size == 1:
        return mx.broadcast_to(each.reshape(1, 1), (out, 1))
    each = each[:, None] if each.ndim == 1 else each
    groups.expect(each.shape, (out, each.shape[-1]), name)
    return each
