"""Pixtral: images of any size as one sequence, turned by row and column, each image seeing only itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ConfigError
from ..layers import GatedMLP, RMSNorm, gated
from .vit import Attention, Layer, Layers, Patches, Turn, VisionConfig

NAMES = ("attention", "feed_forward", "attention_norm", "ffn_norm")


@dataclass(kw_only=True)
class PixtralConfig(VisionConfig):
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 1024
    hidden_act: str = "gelu"
    rope_theta: float = 10_000.0
    rope_parameters: dict[str, Any] | None = field(default=None)

    def __post_init__(self):
        super().__post_init__()
        settings = self.rope_parameters or {}
        if (kind := settings.get("rope_type", "axial")) not in ("axial", "default"):
            raise ConfigError("the vision tower's rope is axial", where="config.json", found=repr(kind))
        self.rope_theta = float(settings.get("rope_theta") or self.rope_theta)


class Pixtral(nn.Module):
    """Pixels (N, channels, H, W) and the sizes within that frame (N, 2) to features (1, all patches, dim)."""

    def __init__(self, c: PixtralConfig):
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(c.hidden_size, 1e-5)

        def layer() -> Layer:
            attention = Attention(c.hidden_size, c.num_attention_heads, bias=False, out="o_proj")
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, glu=gated(c.hidden_act))
            return Layer(attention, mlp, norm, names=NAMES)

        self.patch_conv = Patches(c.num_channels, c.hidden_size, c.patch_size, bias=False)
        self.ln_pre = norm()
        self.transformer = Layers([layer() for _ in range(c.num_hidden_layers)])
        self._patch, self._theta = c.patch_size, c.rope_theta
        self._head_dim = c.hidden_size // c.num_attention_heads

    def grids(self, sizes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """Rows and columns of patches of images of ``sizes`` (height, width) in pixels."""
        return [(height // self._patch, width // self._patch) for height, width in sizes]

    def states(self, pixels: mx.array, sizes: Sequence[Sequence[int]]) -> list[mx.array]:
        """The hidden states (1, all patches, dim), one image after the other."""
        grids = self.grids(sizes)
        maps = self.patch_conv(pixels)
        x = mx.concatenate([maps[i, :h, :w].flatten(0, 1) for i, (h, w) in enumerate(grids)])[None]
        return self.transformer(self.ln_pre(x), same_image(grids), axial(grids, self._head_dim, self._theta))

    def __call__(self, pixels: mx.array, sizes: Sequence[Sequence[int]]) -> mx.array:
        return self.states(pixels, sizes)[-1]


def same_image(grids: Sequence[tuple[int, int]]) -> mx.array | None:
    """(1, 1, patches, patches) booleans, true within an image; None where there is only one."""
    if len(grids) == 1:
        return None
    image = mx.array(np.repeat(np.arange(len(grids)), [h * w for h, w in grids]))
    return (image[:, None] == image)[None, None]


def axial(grids: Sequence[tuple[int, int]], head_dim: int, theta: float) -> Turn:
    """Turns heads (B, heads, patches, head_dim), halves paired: by the row, then by the column.

    Within a half, even frequencies turn by the row and come first, odd ones by the column.
    """
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    rows = np.concatenate([np.repeat(np.arange(h), w) for h, w in grids])[:, None]
    columns = np.concatenate([np.tile(np.arange(w), h) for h, w in grids])[:, None]
    angles = np.concatenate([rows * inverse[0::2], columns * inverse[1::2]], axis=1).astype(np.float32)
    cos, sin = mx.array(np.cos(angles)), mx.array(np.sin(angles))

    def turn(x: mx.array) -> mx.array:
        a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
        return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)

    return turn
