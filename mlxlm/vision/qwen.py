"""Qwen's vision towers: patches of any number in blocks of merged ones, turned by row and column, frame by frame.

Qwen 2, 2.5, 3 and GLM-OCR differ in norms, MLPs, mergers and how far a patch sees; each difference is a part.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import positive
from ..errors import ConfigError, GenerationError
from ..kernels import ops
from ..vlm import Item, Rows

Grid = tuple[int, int, int]
"""Frames (pairs of frames), rows and columns of patches."""


@dataclass(kw_only=True)
class GridConfig:
    """What the vision_config of all of them says."""

    # Older words for what other fields say too.
    UNREAD: ClassVar[frozenset[str]] = frozenset({"in_chans", "spatial_patch_size", "image_size"})

    depth: int
    hidden_size: int
    out_hidden_size: int
    num_heads: int = 16
    intermediate_size: int = 0
    hidden_act: str = "silu"
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    tokens_per_second: float | None = None
    rope_parameters: dict | None = None
    initializer_range: float = 0.02

    def __post_init__(self):
        positive(self, "depth", 1 << 12)
        for name in ("hidden_size", "num_heads", "patch_size", "temporal_patch_size", "spatial_merge_size"):
            positive(self, name)
        if self.hidden_size % (4 * self.num_heads):
            raise ConfigError("a head's size must be a multiple of 4", where="config.json, vision_config",
                              found=f"hidden_size {self.hidden_size}, num_heads {self.num_heads}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def rope_theta(self) -> float:
        return float((self.rope_parameters or {}).get("rope_theta", 10_000.0))


def block_order(grid: Grid, merge: int) -> np.ndarray:
    """(2, t·h·w): row and column of each patch, in the order in which patches come: merged blocks, frame by frame."""
    t, h, w = grid
    at = np.indices((h, w)).reshape(2, h // merge, merge, w // merge, merge).transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return np.tile(at, (1, t))


def frames(grid: Grid, merge: int) -> list[np.ndarray]:
    """Which patches see each other: those of a frame. (groups, patches) index arrays, one for each size of group."""
    t, h, w = grid
    return [np.arange(t * h * w).reshape(t, h * w)]


def windows(side: int) -> Callable[[Grid, int], list[np.ndarray]]:
    """As `frames`, but within windows of ``side`` blocks of merged patches."""

    def split(grid: Grid, merge: int) -> list[np.ndarray]:
        t, h, w = grid
        rows, columns = h // merge, w // merge
        blocks = np.arange(t * rows * columns).reshape(t, rows, columns)
        found: dict[int, list[np.ndarray]] = {}
        for y in range(0, rows, side):
            for x in range(0, columns, side):
                own = blocks[:, y : y + side, x : x + side].reshape(t, -1, 1) * merge**2 + np.arange(merge**2)
                found.setdefault(own[0].size, []).append(own.reshape(t, -1))
        return [np.concatenate(groups) for groups in found.values()]

    return split


class Turns:
    """Each half of a head's pairs turns by the patch's row or column."""

    def __init__(self, grid: Grid, merge: int, head_dim: int, base: float):
        inverse = 1.0 / base ** (np.arange(0, head_dim // 2, 2, dtype=np.float32) / (head_dim // 2))
        angles = block_order(grid, merge)[..., None] * inverse.astype(np.float32)  # (2, N, head_dim / 4)
        angles = mx.array(np.concatenate(list(angles), axis=-1).astype(np.float32))
        self.cos, self.sin = mx.cos(angles), mx.sin(angles)

    def __call__(self, x: mx.array) -> mx.array:
        """x (heads, N, head_dim)."""
        a, b = mx.split(x.astype(mx.float32), 2, axis=-1)
        out = mx.concatenate([a * self.cos - b * self.sin, b * self.cos + a * self.sin], axis=-1)
        return out.astype(x.dtype)


class Patches(nn.Module):
    """Flat patches (N, channels · frames · size · size) to (N, dim): a convolution that sees each patch once."""

    def __init__(self, c: GridConfig, *, bias: bool):
        super().__init__()
        self.proj = nn.Module()
        size = c.patch_size
        self.proj.weight = mx.zeros((c.hidden_size, c.temporal_patch_size, size, size, c.in_channels))
        if bias:
            self.proj.bias = mx.zeros((c.hidden_size,))
        self._dims = (c.in_channels, c.temporal_patch_size, size, size)

    def __call__(self, pixels: mx.array) -> mx.array:
        weight = self.proj["weight"]
        x = pixels.reshape(-1, *self._dims).moveaxis(1, -1).flatten(1).astype(weight.dtype)
        return ops.linear(x, weight.flatten(1), self.proj.get("bias"))


class Attention(nn.Module):
    """Every patch sees the others of its group; ``norm`` is for each head's queries and keys, if the tower has one."""

    def __init__(self, c: GridConfig, *, bias: bool = True, norm: Callable[[], nn.Module] | None = None):
        super().__init__()
        self.qkv = nn.Linear(c.hidden_size, 3 * c.hidden_size, bias=bias)
        self.proj = nn.Linear(c.hidden_size, c.hidden_size, bias=bias)
        if norm is not None:
            self.q_norm, self.k_norm = norm(), norm()
        self._heads = c.num_heads

    def __call__(self, x: mx.array, groups: Sequence[np.ndarray], turn: Turns) -> mx.array:
        q, k, v = (mx.unflatten(part, -1, (self._heads, -1)) for part in mx.split(self.qkv(x), 3, axis=-1))
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = turn(q.swapaxes(0, 1)), turn(k.swapaxes(0, 1)), v.swapaxes(0, 1)
        outs = [self._within(q, k, v, mx.array(group)) for group in groups]
        order = np.argsort(np.concatenate([group.reshape(-1) for group in groups]))
        return self.proj(mx.concatenate(outs)[mx.array(order)])

    @staticmethod
    def _within(q: mx.array, k: mx.array, v: mx.array, group: mx.array) -> mx.array:
        q, k, v = (x[:, group].swapaxes(0, 1) for x in (q, k, v))  # (groups, heads, patches, head_dim)
        out = ops.attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=None)
        return out.swapaxes(1, 2).reshape(group.size, -1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]):
        super().__init__()
        self.norm1, self.norm2, self.attn, self.mlp = norm(), norm(), attention, mlp

    def __call__(self, x: mx.array, groups: Sequence[np.ndarray], turn: Turns) -> mx.array:
        x = x + self.attn(self.norm1(x), groups, turn)
        return x + self.mlp(self.norm2(x))


class MLP(nn.Module):
    """second(act(first(x))), by the checkpoint's names."""

    def __init__(self, dim: int, hidden: int, act: Callable, names: tuple[str, str]):
        super().__init__()
        self._names, self._act = names, act
        self[names[0]], self[names[1]] = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def __call__(self, x: mx.array) -> mx.array:
        first, second = self._names
        return self[second](self._act(self[first](x)))


class Tower(nn.Module):
    """Patches, blocks and a merger. ``near`` says who sees whom in all blocks but the ``far`` ones.

    ``start`` adds to the patches what a learned table of positions says; ``taps`` are blocks after which
    ``deepstack_merger_list`` makes more rows; ``finish`` is a norm before the merger.
    """

    def __init__(
        self,
        c: GridConfig,
        patches: Patches,
        block: Callable[[], Block],
        merger: nn.Module,
        *,
        near: Callable[[Grid, int], list[np.ndarray]] = frames,
        far: Iterable[int] = (),
        **parts: Any,
    ):
        super().__init__()
        self.patch_embed = patches
        self.blocks = [block() for _ in range(c.depth)]
        self.merger = merger
        for name, part in parts.items():
            self[name] = part
        self._near, self._far, self._c = near, frozenset(far), c

    def __call__(self, pixels: mx.array, grid: Grid) -> Rows:
        """The rows of one image or video: pixels (N, channels · frames · size · size) in block order."""
        c = self._c
        if grid[1] % c.spatial_merge_size or grid[2] % c.spatial_merge_size:
            raise GenerationError("the grid isn't one of whole blocks", where="media", found=grid,
                                  expected=f"multiples of {c.spatial_merge_size}")
        x = self.started(self.patch_embed(pixels), grid)
        turn = Turns(grid, c.spatial_merge_size, c.head_dim, c.rope_theta)
        near, far = self._near(grid, c.spatial_merge_size), frames(grid, c.spatial_merge_size)
        later = []
        for i, block in enumerate(self.blocks):
            x = block(x, far if i in self._far else near, turn)
            later += self.tapped(i, x)
        return Rows(self.merger(self.finished(x)), tuple(later))

    def started(self, x: mx.array, grid: Grid) -> mx.array:
        """The patches as the first block gets them."""
        return x

    def tapped(self, i: int, x: mx.array) -> list[mx.array]:
        """The rows that what block ``i`` gives makes for a layer of the decoder."""
        return []

    def finished(self, x: mx.array) -> mx.array:
        """What the merger gets."""
        return x

    def look(self, item: Item) -> Rows:
        """The rows of an item: its first array has the pixels, its second the grid."""
        pixels, grid = list(item.values())[:2]
        t, h, w = (int(n) for n in np.array(grid).reshape(-1))
        return self(pixels, (t, h, w))


def by_grid(media: Mapping[str, mx.array]) -> list[Item]:
    """Splits media whose first array has t·h·w rows for each row (t, h, w) of the second; others have one entry."""
    pixels, grids, *more = [*media, None] if len(media) < 2 else media
    if grids is None:
        raise GenerationError("the grids of the images are missing", where="media", found=pixels)
    sizes = np.array(media[grids]).reshape(-1, 3)
    if (sizes < 1).any() or sizes.prod(axis=1).sum() != media[pixels].shape[0]:
        raise GenerationError("the grids don't fit the patches", where=grids, found=sizes.tolist()[:4],
                              expected=f"{media[pixels].shape[0]} patches in all")
    starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))])
    return [
        {pixels: media[pixels][int(starts[i]) : int(starts[i + 1])], grids: media[grids][i : i + 1]}
        | {name: media[name][i : i + 1] for name in more}
        for i in range(len(sizes))
    ]


def patches_to_mlx(w: mx.array, config: Any) -> mx.array:
    """A patch convolution (dim, channels, frames, size, size), as torch lays it out, with the channels last."""
    return w.moveaxis(1, -1)
