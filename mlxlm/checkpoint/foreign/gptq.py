"""GPTQ (AutoGPTQ, GPTQModel): its codes lie in MLX's order once transposed; zero points become offsets, exactly.

``qweight`` (in * bits / 32, out), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out), ``g_idx`` (in,):
w[i, o] = scales[g, o] * (q[i, o] - zero[g, o]) with g = g_idx[i]. The older format stores zero - 1. A checkpoint whose
inputs are ordered by activation (groups lie mixed) becomes plain floats: no order of MLX's groups holds them.
"""

from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import ConfigError
from ...weights import Weights
from ..bits import unpack as codes_of
from . import groups, whole_number

BITS = (2, 3, 4, 8)


def unpack(weights: Weights, settings: dict[str, Any], where: object) -> tuple[Weights, dict[str, Any] | None]:
    bits = whole_number(settings, "bits", BITS, where)
    form = str(settings.get("checkpoint_format") or "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise ConfigError("this layout of GPTQ isn't read", where=f"{where}: quantization_config.checkpoint_format",
                          found=repr(form), expected="gptq or gptq_v2",
                          hint=groups.OTHERWISE)
    weights = dict(weights)
    groups.each(weights, "qweight", lambda path: _module(weights, path, bits, 0 if form == "gptq_v2" else 1))
    return weights, groups.quantization(weights, bits, settings.get("group_size"))


def _module(weights: Weights, path: str, bits: int, less: int) -> None:
    words = groups.take(weights, f"{path}.qweight", 2, "words").T.view(mx.uint32)
    zeros = codes_of(groups.take(weights, f"{path}.qzeros", 2, "words"), bits)
    scales = groups.take(weights, f"{path}.scales", 2, "float")
    out, width = words.shape[0], words.shape[1] * 32 // bits
    groups.expect(scales.shape, (scales.shape[0], out), f"{path}.scales")
    groups.expect(zeros.shape, (scales.shape[0], -(-out * bits // 32) * 32 // bits), f"{path}.qzeros")
    zeros = zeros[:, :out]
    order = weights.pop(f"{path}.g_idx", None)
    # A zero point times a scale has more bits than float16: float32 holds it.
    scale = scales.T.astype(mx.float32)
    offset = -scale * (zeros.T.astype(mx.float32) + less)
    if order is not None and _mixed(order, width, scales.shape[0], path):
        codes = codes_of(words, bits).astype(mx.float32)
        weights[f"{path}.weight"] = (codes * scale[:, order] + offset[:, order]).astype(scales.dtype)
        return
    size = groups.group_size(width, scales.shape[0], path)
    weights[f"{path}.weight"] = mx.contiguous(words)
    weights[f"{path}.scales"] = groups.repeated(scale, width, size)
    weights[f"{path}.biases"] = groups.repeated(offset, width, size)


def _mixed(order: mx.array, width: int, count: int, path: str) -> bool:
    """Whether the groups' inputs don't lie side by side."""
    found = groups.order_of(f"{path}.g_idx", order, width, count)
    return bool((found != np.arange(width) // -(-width // count)).any())
