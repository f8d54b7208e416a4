"""Several caches of one layer, for layers that attend and recur at once."""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx

from .base import LayerCache


class CompositeCache(LayerCache):
    """``cache[i]`` is the i-th part's; what is asked of all parts is asked of each."""

    kind = "composite"

    def __init__(self, *parts):
        self.parts = list(parts)

    def __getitem__(self, i: int):
        return self.parts[i]

    def __setitem__(self, i: int, part) -> None:
        self.parts[i] = part

    @property
    def offset(self) -> int:  # type: ignore[override]
        return max(p.offset for p in self.parts)

    @property
    def state(self) -> list[mx.array]:
        return [a for p in self.parts for a in p.state]

    def can_trim(self, n: int) -> bool:
        return all(p.can_trim(n) for p in self.parts)

    def trim(self, n: int) -> int:
        """Forgets the last ``n`` tokens in every part, or in none."""
        return min(p.trim(n) for p in self.parts) if self.can_trim(n) else 0

    def copy(self) -> Self:
        return type(self)(*(p.copy() for p in self.parts))

    def checkpoint(self, ahead: int | None = None) -> Any:
        marks = [p.checkpoint(ahead) for p in self.parts]
        return marks if any(m is not None for m in marks) else None

    def rewind(self, checkpoint: Any, n: int) -> None:
        for part, mark in zip(self.parts, checkpoint or [None] * len(self.parts), strict=True):
            part.rewind(mark, n)

    def pad(self, starts: Sequence[int]) -> None:
        for part in self.parts:
            part.pad(starts)

    @classmethod
    def merge(cls, caches: Sequence[Self], shifts: Sequence[int], rows: Sequence[int]) -> "CompositeCache":
        groups = zip(*(c.parts for c in caches), strict=True)
        return cls(*(type(group[0]).merge(group, shifts, rows) for group in groups))

    def rows(self, indices: Sequence[int], drop: int) -> Self:
        return type(self)(*(p.rows(indices, drop) for p in self.parts))
