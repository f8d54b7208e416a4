"""Float8 weights with scales for a tensor, a row or blocks of 128 x 128 (DeepSeek V3): to plain floats.

``weight`` in F8_E4M3 with ``weight_scale_inv`` (or ``weight_scale``): w = weight * scale of its block.
"""

from typing import Any

import mlx.core as mx

from ...errors import ConfigError
from ...weights import Weights
from . import groups

SCALES = ("weight_scale_inv", "weight_scale")
SPARE = ("input_scale", "activation_scale", "k_scale", "v_scale")


def unpack(weights: Weights, settings: dict[str, Any], where: object) -> tuple[Weights, dict[str, Any] | None]:
    block = settings.get("weight_block_size") or [128, 128]
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(b, int) and b > 0 for b in block)):
        raise ConfigError("not a block's size", where=f"{where}: quantization_config.weight_block_size",
                          found=repr(block)[:60], expected="two whole numbers, such as [128, 128]")
    dtype = groups.DTYPES.get(str(settings.get("dtype")).removeprefix("torch."), mx.bfloat16)
    weights, sure = dict(weights), bool(settings.get("weight_block_size"))

    def plain(path: str, marker: str) -> None:
        name = f"{path}.{marker}"
        scale = groups.take(weights, name, None, "float").astype(mx.float32)
        weight = groups.take(weights, f"{path}.weight", 2, "bytes")
        blocks = scale.ndim == 2 and (sure or scale.shape == _counts(weight.shape, block))
        scale = spread(scale, weight.shape, name, block if blocks else None)
        weights[f"{path}.weight"] = (mx.from_fp8(weight, mx.float32) * scale).astype(dtype)

    for marker in SCALES:
        groups.each(weights, marker, lambda path, marker=marker: plain(path, marker))
    return {name: w for name, w in weights.items() if not name.endswith(tuple(f".{n}" for n in SPARE))}, None


def _counts(shape: tuple[int, ...], block: list[int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def spread(scale: mx.array, shape: tuple[int, ...], name: str, block: list[int] | None = None) -> mx.array:
    """The scale ``name`` that multiplies a weight of ``shape``: of one number, one a row, or one a block."""
    out, width = shape
    if block is None and scale.shape in ((), (1,), (1, 1)):
        return scale.reshape(1, 1)
    if block is None and scale.shape in ((out,), (out, 1)):
        return scale.reshape(out, 1)
    if not scale.size:
        groups.expect(scale.shape, (out, 1), name)
    rows, columns = block or (1, -(-width // scale.shape[-1]))
    rows, columns = min(rows, out), min(columns, width)
    groups.expect(scale.shape, _counts(shape, [rows, columns]), name)
    return mx.repeat(mx.repeat(scale, rows, axis=0)[:out], columns, axis=1)[:, :width]
