"""Float8 weights with scales for a tensor, a row or blocks of 128 x 128 (DeepSeek V3): to plain floats.

``weight`` in F8_E4M3 with ``weight_scale_inv`` (or ``weight_scale``): w = weight * scale of its block.
"""

from typing import Any

import mlx.core as mx

from ...errors import ConfigError, WeightError
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
    weights = dict(weights)
    for marker in SCALES:
        for path in groups.modules(weights, marker):
            scale = weights.pop(f"{path}.{marker}")
            weight = groups.take(weights, f"{path}.weight", 2)
            if weight.dtype != mx.uint8:
                raise WeightError("a weight with a scale isn't float8", where=f"{path}.weight", found=str(weight.dtype))
            scale = spread(scale.astype(mx.float32), weight.shape, path, block)
            weights[f"{path}.weight"] = (mx.from_fp8(weight, mx.float32) * scale).astype(dtype)
    return {name: w for name, w in weights.items() if not name.endswith(tuple(f".{n}" for n in SPARE))}, None


def spread(scale: mx.array, shape: tuple[int, ...], path: str, block: list[int] | None = None) -> mx.array:
    """A scale that multiplies a weight of ``shape``: of one number, one a row, or one a block."""
    out, width = shape
    if scale.size == 1:
        return scale.reshape(1, 1)
    if scale.size == out and (scale.ndim == 1 or scale.shape[-1] == 1):
        return scale.reshape(out, 1)
    rows, columns = block or (1, -(-width // scale.shape[-1]))
    groups.expect(scale.shape, (-(-out // rows), -(-width // columns)), f"{path}: its scales")
    return mx.repeat(mx.repeat(scale, rows, axis=0)[:out], columns, axis=1)[:, :width]
