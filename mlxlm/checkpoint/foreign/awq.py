"""AWQ's gemm layout: 4-bit codes along the output axis in an order of their own, repacked along the input axis.

``qweight`` (in, out / 8), ``qzeros`` (groups, out / 8), ``scales`` (groups, out): w[i, o] = scales * (q - zero).
"""

from typing import Any

import mlx.core as mx

from ...errors import ConfigError
from ...weights import Weights
from ..bits import pack
from ..bits import unpack as codes_of
from . import groups, whole_number

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble of a word that holds its first, second, … column."""


def unpack(weights: Weights, settings: dict[str, Any], where: object) -> tuple[Weights, dict[str, Any] | None]:
    whole_number({"bits": 4, **settings, **({"bits": settings["w_bit"]} if "w_bit" in settings else {})}, "bits", (4,),
                 where)
    version = str(settings.get("version") or "gemm").lower()
    if version != "gemm":
        raise ConfigError("this layout of AWQ isn't read", where=f"{where}: quantization_config.version",
                          found=repr(version), expected="gemm",
                          hint=groups.OTHERWISE)
    weights = dict(weights)
    groups.each(weights, "qweight", lambda path: _module(weights, path))
    return weights, groups.quantization(weights, 4, settings.get("group_size") or settings.get("q_group_size"))


def _columns(words: mx.array) -> mx.array:
    """Words (rows, out / 8) to codes (rows, out)."""
    codes = codes_of(words, 4).reshape(words.shape[0], -1, 8)
    return codes[..., mx.array(PLACES)].reshape(words.shape[0], -1)


def _module(weights: Weights, path: str) -> None:
    codes = _columns(groups.take(weights, f"{path}.qweight", 2, "words"))
    zeros = _columns(groups.take(weights, f"{path}.qzeros", 2, "words"))
    scales = groups.take(weights, f"{path}.scales", 2, "float")
    width, out = codes.shape
    groups.expect(scales.shape, (scales.shape[0], out), f"{path}.scales")
    groups.expect(zeros.shape, scales.shape, f"{path}.qzeros")
    size = groups.group_size(width, scales.shape[0], path)
    scale = scales.T.astype(mx.float32)
    weights[f"{path}.weight"] = pack(codes.T, 4)
    weights[f"{path}.scales"] = groups.repeated(scale, width, size)
    weights[f"{path}.biases"] = groups.repeated(-scale * zeros.T.astype(mx.float32), width, size)
