"""SigLIP 2 NaFlex: patches come cut and padded, and the table of positions is resized to each image's grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..layers import LayerNorm
from .vit import VisionConfig, encoder


@dataclass(kw_only=True)
class Siglip2Config(VisionConfig):
    num_patches: int = 256


class Embeddings(nn.Module):
    """Patches (N, most, channels * size²) of the images' grids, with positions (N, most, dim)."""

    def __init__(self, c: Siglip2Config):
        super().__init__()
        self.patch_embedding = nn.Linear(c.num_channels * c.patch_size**2, c.hidden_size)
        self.position_embedding = nn.Embedding(c.num_patches, c.hidden_size)
        self._side = int(c.num_patches**0.5)

    def __call__(self, patches: mx.array, grids: Sequence[tuple[int, int]]) -> mx.array:
        table = self.position_embedding(mx.arange(self._side**2)).reshape(self._side, self._side, -1)
        x = self.patch_embedding(patches.astype(table.dtype))
        return x + mx.stack([resized(table, grid, x.shape[1]) for grid in grids]).astype(x.dtype)


class Siglip2(nn.Module):
    """Patches (N, most, channels * size²) and the images' grids (N, 2) to features (N, most, dim)."""

    def __init__(self, c: Siglip2Config):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(c), encoder(c)
        self.post_layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, patches: mx.array, grids: Sequence[tuple[int, int]]) -> mx.array:
        lengths = mx.array([h * w for h, w in grids])
        seen = (mx.arange(patches.shape[1]) < lengths[:, None])[:, None, None]
        x = self.embeddings(patches, grids)
        return self.post_layernorm(self.encoder(x, None if bool(seen.all()) else seen)[-1])


def resized(table: mx.array, grid: tuple[int, int], length: int) -> mx.array:
    """A table (side, side, dim) at the size of ``grid``, (length, dim); rows past the grid are as the first one."""
    h, w = grid
    dim = table.shape[-1]
    rows, columns = (mx.array(triangle(table.shape[0], n)) for n in (h, w))
    wide = mx.tensordot(columns, table.astype(mx.float32), axes=[[1], [1]])  # (w, side, dim)
    out = mx.tensordot(rows, wide, axes=[[1], [1]]).reshape(h * w, dim)  # (h, w, dim)
    if length == h * w:
        return out
    return mx.concatenate([out, mx.broadcast_to(out[:1], (length - h * w, dim))])


def triangle(old: int, new: int) -> np.ndarray:
    """The weights (new, old) of bilinear resizing with antialiasing, pixels taken at their centres."""
    scale = old / new
    reach = max(scale, 1.0)
    weights = np.zeros((new, old), np.float64)
    for i in range(new):
        centre = scale * (i + 0.5)
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), old)
        at = np.arange(first, last)
        row = np.maximum(1 - np.abs((at - centre + 0.5) / reach), 0)
        weights[i, first:last] = row / row.sum()
    return weights.astype(np.float32)
