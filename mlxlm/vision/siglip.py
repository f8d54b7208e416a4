"""SigLIP: a vision transformer without a class token, its positions learned one a patch."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import UsageError
from ..layers import LayerNorm
from .vit import Patches, VisionConfig, encoder


@dataclass(kw_only=True)
class SiglipConfig(VisionConfig):
    pass


class Embeddings(nn.Module):
    """Patches and what tells them apart; ``positions`` (N, patches) picks rows of the learned table."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.patch_embedding = Patches(c.num_channels, c.hidden_size, c.patch_size)
        self.position_embedding = nn.Embedding(c.side**2, c.hidden_size)

    def __call__(self, pixels: mx.array, positions: mx.array | None = None) -> mx.array:
        x = self.patch_embedding(pixels).flatten(1, 2)
        table = self.position_embedding
        if positions is not None:
            return x + table(positions)
        if x.shape[1] != (rows := table.weight.shape[0]):
            raise UsageError(
                "the image isn't of the size that the tower takes",
                where="pixel_values",
                found=f"{x.shape[1]} patches",
                expected=f"{rows}",
            )
        return x + table(mx.arange(rows))


class Siglip(nn.Module):
    """Pixels (N, channels, H, W) to features (N, patches, dim)."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(c), encoder(c)
        self.post_layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def states(self, pixels: mx.array) -> list[mx.array]:
        """The hidden states, none of them normed after the last layer."""
        return self.encoder(self.embeddings(pixels))

    def __call__(
        self, pixels: mx.array, positions: mx.array | None = None, mask: mx.array | None = None
    ) -> mx.array:
        return self.post_layernorm(self.encoder(self.embeddings(pixels, positions), mask)[-1])


def fractional_positions(grids: np.ndarray, most: tuple[int, int], side: int) -> np.ndarray:
    """Rows of a ``side`` x ``side`` table for images whose patches fill ``grids`` (N, 2) of a frame of ``most``.

    An image of any shape is laid over the whole table (NaViT); patches outside of it take row 0. In float32, in the
    order of transformers' Idefics 3, since a patch on a boundary falls by the last bit. Returns (N, rows * columns).
    """
    edges = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
    out = np.zeros((len(grids), *most), np.int32)
    for i, (h, w) in enumerate(grids):
        rows, columns = (_buckets(int(n), edges) for n in (h, w))
        out[i, :h, :w] = rows[:, None] * side + columns
    return out.reshape(len(grids), -1)


def _buckets(n: int, edges: np.ndarray) -> np.ndarray:
    steps = np.arange(n, dtype=np.float32) * (np.float32(1.0) / np.float32(n))
    return np.searchsorted(edges, np.minimum(steps, np.float32(1.0 - 1e-6)), side="right")
