"""Keys and values of images for layers of text that look at them, and which of them each token sees."""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx
import numpy as np

from .base import LayerCache


class CrossCache(LayerCache):
    """``keys`` and ``values`` (B, heads, tiles * patches, dim), None until there is an image.

    ``seen`` (B, tokens, tiles) tells which tiles a token sees; tokens past its end see what the last one does.
    """

    kind = "cross"

    def __init__(self):
        self.offset = 0
        self.keys: Any = None  # arrays, once there is an image
        self.values: Any = None
        self.seen: Any = None

    @property
    def state(self) -> list[mx.array]:
        return [] if self.keys is None else [self.keys, self.values, self.seen]

    def advance(self, length: int) -> None:
        self.offset += length

    def see(self, keys: mx.array, values: mx.array, seen: mx.array) -> None:
        """Adds tiles, for the tokens from here on: ``seen`` (B, their number, tiles).

        A token that sees none of the new tiles sees what the last token before it saw of the old ones.
        """
        if self.keys is None:
            before = mx.zeros((seen.shape[0], self.offset, seen.shape[2]), mx.bool_)
            self.keys, self.values, self.seen = keys, values, mx.concatenate([before, seen], axis=1)
            return
        old = self.seen_from(0, self.offset)
        kept = old[:, -1:] & ~seen.any(-1, keepdims=True)
        old = mx.concatenate([old, kept], axis=1)
        new = mx.concatenate([mx.zeros((seen.shape[0], self.offset, seen.shape[2]), mx.bool_), seen], axis=1)
        self.seen = mx.concatenate([old, new], axis=2)
        self.keys = mx.concatenate([self.keys, keys], axis=2)
        self.values = mx.concatenate([self.values, values], axis=2)

    def seen_from(self, start: int, length: int) -> mx.array:
        """(B, length, tiles) booleans for the tokens from ``start`` on; there must be an image."""
        last = self.seen.shape[1] - 1
        return self.seen[:, mx.minimum(mx.arange(start, start + length), last)]

    def mask(self, start: int, length: int) -> mx.array:
        """(B, length, tiles * patches) booleans."""
        seen = self.seen_from(start, length)
        return mx.repeat(seen, self.keys.shape[2] // seen.shape[2], axis=2)

    def can_trim(self, n: int) -> bool:
        return n <= self.offset

    def trim(self, n: int) -> int:
        n = min(n, self.offset)
        self.offset -= n
        if self.seen is not None:
            self.seen = self.seen[:, : self.offset]
            if not self.offset or not np.array(self.seen).any():
                self.keys = self.values = self.seen = None
        return n

    def copy(self) -> Self:
        new = type(self)()
        new.__dict__.update(self.__dict__)  # arrays are replaced as a whole, never written to
        return new

    @classmethod
    def merge(cls, caches: Sequence[Self], shifts: Sequence[int], rows: Sequence[int]) -> "CrossCache":
        new = cls()
        new.offset = max(c.offset + d for c, d in zip(caches, shifts, strict=True))
        first = next((c for c in caches if c.keys is not None), None)
        if first is None:
            return new
        tiles = max(c.seen.shape[2] for c in caches if c.seen is not None)
        patches = first.keys.shape[2] // first.seen.shape[2]
        parts = [
            c._padded(first, shift, count, new.offset, tiles, patches)
            for c, shift, count in zip(caches, shifts, rows, strict=True)
        ]
        new.keys, new.values, new.seen = (mx.concatenate(list(part)) for part in zip(*parts, strict=True))
        return new

    def _padded(self, like: Self, shift: int, rows: int, length: int, tiles: int, patches: int) -> tuple[mx.array, ...]:
        """Keys, values and what is seen of ``rows``, with room for more tiles and tokens; zeros where there is none."""
        _, heads, _, dim = like.keys.shape
        if self.keys is None:
            nothing = mx.zeros((rows, heads, tiles * patches, dim), like.keys.dtype)
            return nothing, nothing, mx.zeros((rows, length, tiles), mx.bool_)
        more = (tiles - self.seen.shape[2]) * patches
        keys, values = (mx.pad(a, [(0, 0), (0, 0), (0, more), (0, 0)]) for a in (self.keys, self.values))
        seen = self.seen_from(0, length - shift)
        return keys, values, mx.pad(seen, [(0, 0), (shift, 0), (0, tiles - seen.shape[2])])

    def rows(self, indices: Sequence[int], drop: int) -> Self:
        new, picked = self.copy(), mx.array(list(indices))
        new.offset -= drop
        if self.keys is not None and self.values is not None and self.seen is not None:
            new.keys, new.values, new.seen = self.keys[picked], self.values[picked], self.seen[picked][:, drop:]
        return new
