"""SAM's image encoder: attention in windows, in a few layers over all, each with learned relative positions.

Layout (N, rows, columns, dim) throughout (Kirillov et al., Segment Anything; Li et al., ViTDet).
"""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ConfigError, UsageError
from ..kernels import ops
from ..layers import LayerNorm, activation
from .convs import Conv
from .vit import Patches


@dataclass(kw_only=True)
class SamConfig:
    UNREAD = frozenset({"num_pos_feats", "scale", "num_channels"})

    hidden_size: int = 768
    output_channels: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 1024
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    mlp_dim: int | None = None
    use_abs_pos: bool = True
    use_rel_pos: bool = True
    window_size: int = 14
    global_attn_indexes: list[int] = field(default_factory=lambda: [2, 5, 8, 11])

    def __post_init__(self):
        if not (self.use_abs_pos and self.use_rel_pos):
            raise ConfigError("the tower has absolute and relative positions", where="config.json",
                              found=f"use_abs_pos {self.use_abs_pos}, use_rel_pos {self.use_rel_pos}")
        self.mlp_dim = self.mlp_dim or int(self.hidden_size * self.mlp_ratio)

    @property
    def side(self) -> int:
        """Patches along a side of the image that the tower was trained on."""
        return self.image_size // self.patch_size


class Attention(nn.Module):
    """Scores get what the query says of the distance in rows and in columns."""

    def __init__(self, c: SamConfig, side: int):
        super().__init__()
        self.qkv = nn.Linear(c.hidden_size, 3 * c.hidden_size, bias=c.qkv_bias)
        self.proj = nn.Linear(c.hidden_size, c.hidden_size)
        self._head_dim = c.hidden_size // c.num_attention_heads
        shape = (2 * side - 1, self._head_dim)
        self.rel_pos_h, self.rel_pos_w = mx.zeros(shape), mx.zeros(shape)

    def __call__(self, x: mx.array) -> mx.array:
        _, rows, columns, _ = x.shape
        q, k, v = mx.unflatten(self.qkv(x.flatten(1, 2)), -1, (3, -1, self._head_dim)).transpose(2, 0, 3, 1, 4)
        grid = mx.unflatten(q, 2, (rows, columns))  # (N, heads, rows, columns, head_dim)
        by_row = ops.matmul(grid, self._distances(self.rel_pos_h, rows).swapaxes(1, 2))
        by_column = ops.matmul(grid.swapaxes(2, 3), self._distances(self.rel_pos_w, columns).swapaxes(1, 2))
        by_column = by_column.swapaxes(2, 3)
        bias = (by_row[..., :, None] + by_column[..., None, :]).reshape(*q.shape[:3], rows * columns)
        out = ops.attention(q, k, v, scale=self._head_dim**-0.5, mask=bias)
        return self.proj(out.swapaxes(1, 2).reshape(x.shape))

    @staticmethod
    def _distances(table: mx.array, side: int) -> mx.array:
        """(side, side, head_dim): the table's entry for each query's distance to each key."""
        longest = 2 * side - 1
        if table.shape[0] != longest:
            taps = mx.array(linear(table.shape[0], longest))
            table = mx.tensordot(taps, table.astype(mx.float32), 1).astype(table.dtype)
        at = np.arange(side)
        return table[mx.array(at[:, None] - at + side - 1)]


class MLP(nn.Module):
    """lin2(act(lin1(x)))."""

    def __init__(self, c: SamConfig):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(c.hidden_size, c.mlp_dim or 0), nn.Linear(c.mlp_dim or 0, c.hidden_size)
        self._act = activation(c.hidden_act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.lin2(self._act(self.lin1(x)))


class Block(nn.Module):
    """A pre-norm layer whose attention sees a window, or everything if ``window`` is 0."""

    def __init__(self, c: SamConfig, window: int):
        super().__init__()
        self.norm1, self.norm2 = (LayerNorm(c.hidden_size, c.layer_norm_eps) for _ in range(2))
        self.attn, self.mlp, self._window = Attention(c, window or c.side), MLP(c), window

    def __call__(self, x: mx.array) -> mx.array:
        h = self.norm1(x)
        x = x + (self._in_windows(h) if self._window else self.attn(h))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: mx.array) -> mx.array:
        n, rows, columns, dim = x.shape
        w = self._window
        x = mx.pad(x, [(0, 0), (0, -rows % w), (0, -columns % w), (0, 0)])
        high, wide = x.shape[1] // w, x.shape[2] // w
        x = x.reshape(n, high, w, wide, w, dim).swapaxes(2, 3).reshape(-1, w, w, dim)
        x = self.attn(x).reshape(n, high, wide, w, w, dim).swapaxes(2, 3).reshape(n, high * w, wide * w, dim)
        return x[:, :rows, :columns]


class PatchEmbed(nn.Module):
    def __init__(self, c: SamConfig):
        super().__init__()
        self.proj = Patches(3, c.hidden_size, c.patch_size)

    def __call__(self, pixels: mx.array) -> mx.array:
        return self.proj(pixels)


def neck(c: SamConfig) -> list[nn.Module]:
    """Two convolutions to fewer channels, each with a norm."""
    dim = c.output_channels
    first, second = Conv(c.hidden_size, dim, bias=False), Conv(dim, dim, 3, bias=False)
    return [first, LayerNorm(dim, 1e-6), second, LayerNorm(dim, 1e-6)]


class Sam(nn.Module):
    """Pixels (N, 3, H, W) to features (N, H / size, W / size, output_channels), after the neck."""

    def __init__(self, c: SamConfig):
        super().__init__()
        self.patch_embed, self.pos_embed = PatchEmbed(c), mx.zeros((1, c.side, c.side, c.hidden_size))
        everything = set(c.global_attn_indexes)
        self.blocks = [Block(c, 0 if i in everything else c.window_size) for i in range(c.num_hidden_layers)]
        self.neck = neck(c)

    def states(self, pixels: mx.array) -> list[mx.array]:
        """What goes into the first layer, then what each layer makes of it."""
        x = self.patch_embed(pixels)
        if x.shape[1] != x.shape[2]:
            raise UsageError("the tower takes square images", where="pixel_values", found=tuple(pixels.shape[2:]))
        states = [x + resized(self.pos_embed[0], x.shape[1])]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def __call__(self, pixels: mx.array) -> mx.array:
        return through(self.neck, self.states(pixels)[-1])


def through(layers: list, x: mx.array) -> mx.array:
    """``x`` through one layer after the other."""
    for layer in layers:
        x = layer(x)
    return x


def resized(table: mx.array, side: int) -> mx.array:
    """Positions (rows, columns, dim) of one square as those of another: bicubic, antialiased."""
    if table.shape[0] == side:
        return table
    w = mx.array(cubic(table.shape[0], side))
    x = mx.tensordot(w, table.astype(mx.float32), 1)  # (side, columns, dim)
    return mx.einsum("sc,rcd->rsd", w, x).astype(table.dtype)


def cubic(old: int, new: int) -> np.ndarray:
    """The weights (new, old) of bicubic resizing with antialiasing, pixels taken at their centres (a = -0.5)."""
    scale = old / new
    stretch = max(scale, 1.0)
    weights = np.zeros((new, old), np.float64)
    for i in range(new):
        centre = scale * (i + 0.5)
        first, last = max(int(centre - 2 * stretch + 0.5), 0), min(int(centre + 2 * stretch + 0.5), old)
        t = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        row = np.where(t < 1, near, np.where(t < 2, far, 0))
        weights[i, first:last] = row / row.sum()
    return weights.astype(np.float32)


def linear(old: int, new: int) -> np.ndarray:
    """The weights (new, old) of linear resizing without antialiasing, pixels taken at their centres."""
    at = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    low = np.minimum(at.astype(int), old - 1)
    weights, rows = np.zeros((new, old)), np.arange(new)
    weights[rows, low] += 1 - (at - low)
    weights[rows, np.minimum(low + 1, old - 1)] += at - low
    return weights.astype(np.float32)
