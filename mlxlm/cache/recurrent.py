"""The memory of a recurrent layer: a few arrays of fixed size, each replaced as a whole at every step."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import mlx.core as mx

from .base import LayerCache


class RecurrentCache(LayerCache):
    """``slots`` arrays (B, ...), None until the first token. It can't be trimmed, but a copy costs nothing.

    ``layout`` says of a slot in which order mlx-lm's files have its axes, where that is another one.
    """

    kind = "recurrent"

    def __init__(self, slots: int, layout: Mapping[int, Sequence[int]] | None = None):
        self.arrays: list[mx.array | None] = [None] * slots
        self.layout = dict(layout or {})
        self.offset = 0

    def __getitem__(self, slot: int) -> mx.array | None:
        return self.arrays[slot]

    def __setitem__(self, slot: int, array: mx.array) -> None:
        self.arrays[slot] = array

    def advance(self, length: int) -> None:
        self.offset += length

    @property
    def state(self) -> list[mx.array]:
        return [a for a in self.arrays if a is not None]

    def can_trim(self, n: int) -> bool:
        return n == 0

    def trim(self, n: int) -> int:
        """Forgets nothing: what went into the state can't be taken out again."""
        return 0

    def copy(self) -> Self:
        """A cache that goes its own way from here; arrays are immutable, so they are shared."""
        new = type(self)(len(self.arrays), self.layout)
        new.arrays, new.offset = list(self.arrays), self.offset
        return new

    def checkpoint(self, ahead: int | None = None) -> Any:
        return self.copy()

    def rewind(self, checkpoint: Any, n: int) -> None:
        self.arrays, self.offset = list(checkpoint.arrays), checkpoint.offset

    @classmethod
    def merge(cls, caches: Sequence[Self], shifts: Sequence[int], rows: Sequence[int]) -> "RecurrentCache":
        new = cls(len(caches[0].arrays), caches[0].layout)
        new.offset = max(c.offset + d for c, d in zip(caches, shifts, strict=True))
        for slot, parts in enumerate(zip(*(c.arrays for c in caches), strict=True)):
            filled = next((p for p in parts if p is not None), None)
            if filled is not None:
                new.arrays[slot] = mx.concatenate(
                    [
                        mx.zeros((n, *filled.shape[1:]), filled.dtype) if p is None else p
                        for p, n in zip(parts, rows, strict=True)
                    ]
                )
        return new

    def rows(self, indices: Sequence[int], drop: int) -> Self:
        new, picked = self.copy(), mx.array(list(indices))
        new.arrays = [None if a is None else a[picked] for a in self.arrays]
        new.offset -= drop
        return new
