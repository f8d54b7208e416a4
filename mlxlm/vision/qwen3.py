"""Qwen 3's tower: a table of positions stretched to the image's grid, and rows for the decoder's first layers too."""

from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import positive
from ..kernels import ops
from ..layers import LayerNorm, activation
from .qwen import MLP, Attention, Block, Grid, GridConfig, Patches, Tower, block_order

EPS = 1e-6


@dataclass(kw_only=True)
class VisionConfig(GridConfig):
    depth: int = 27
    hidden_size: int = 1152
    out_hidden_size: int = 3584
    intermediate_size: int = 4304
    hidden_act: str = "gelu_pytorch_tanh"
    patch_size: int = 16
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: list[int] = field(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        positive(self, "num_position_embeddings")


class Merger(nn.Module):
    """A block of patches to one row; normed patch by patch, or ``whole``."""

    def __init__(self, c: GridConfig, *, whole: bool):
        super().__init__()
        wide = c.hidden_size * c.spatial_merge_size**2
        self.norm = LayerNorm(wide if whole else c.hidden_size, EPS)
        self.linear_fc1, self.linear_fc2 = nn.Linear(wide, wide), nn.Linear(wide, c.out_hidden_size)
        self._wide, self._whole = wide, whole

    def __call__(self, x: mx.array) -> mx.array:
        x = self.norm(x.reshape(-1, self._wide)) if self._whole else self.norm(x).reshape(-1, self._wide)
        return self.linear_fc2(ops.gelu(self.linear_fc1(x)))


class Qwen3Tower(Tower):
    """A tower with a learned table of positions, which taps some of its blocks."""

    def __init__(self, c: VisionConfig):
        norm = partial(LayerNorm, c.hidden_size, EPS)

        def block() -> Block:
            names = ("linear_fc1", "linear_fc2")
            mlp = MLP(c.hidden_size, c.intermediate_size, activation(c.hidden_act), names)
            return Block(Attention(c), mlp, norm)

        super().__init__(c, Patches(c, bias=True), block, Merger(c, whole=False))
        self.pos_embed = nn.Embedding(c.num_position_embeddings, c.hidden_size)
        if c.deepstack_visual_indexes:
            self.deepstack_merger_list = [Merger(c, whole=True) for _ in c.deepstack_visual_indexes]
        self._taps, self._side = list(c.deepstack_visual_indexes), int(c.num_position_embeddings**0.5)

    def started(self, x: mx.array, grid: Grid) -> mx.array:
        indices, weights = self._corners(grid)
        found = (self.pos_embed(mx.array(indices)) * mx.array(weights)[..., None]).sum(axis=1)
        return x + found.astype(x.dtype)

    def _corners(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """(N, 4): the entries of the table around each patch, and how much each counts (bilinear, corners aligned)."""
        at = block_order(grid, self._c.spatial_merge_size).astype(np.float32)
        sizes = np.array(grid[1:], np.float32)[:, None]
        at = at * (self._side - 1) / np.maximum(sizes - 1, 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, self._side - 1)
        part = (at - low).astype(np.float32)
        rows, columns = (np.stack([low[i], high[i]], axis=1) for i in (0, 1))
        of_rows, of_columns = (np.stack([1 - part[i], part[i]], axis=1) for i in (0, 1))
        indices = rows[:, :, None] * self._side + columns[:, None]
        return indices.reshape(-1, 4), (of_rows[:, :, None] * of_columns[:, None]).reshape(-1, 4)

    def tapped(self, i: int, x: mx.array) -> list[mx.array]:
        return [self.deepstack_merger_list[self._taps.index(i)](x)] if i in self._taps else []
