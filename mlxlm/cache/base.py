"""What every layer's memory can do, so that a `State` may ask the same of each of them."""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx


class LayerCache:
    """The protocol, with the answers of a cache that holds nothing.

    ``offset`` counts the tokens of every row, padding included; ``window`` and ``keep`` are what a mask asks for.
    A batch has its rows aligned at the end: all of them have their last token in the last column, and ``pad`` tells
    in which column each begins.
    """

    offset = 0
    window: int | None = None
    keep = 0
    kind = "none"

    @property
    def state(self) -> list[mx.array]:
        """The arrays that a loop must evaluate to keep the graph short."""
        return []

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.state)

    def can_trim(self, n: int) -> bool:
        """Whether the last ``n`` tokens can be forgotten."""
        return True

    def trim(self, n: int) -> int:
        """Forgets the last ``n`` tokens; returns how many it forgot."""
        return n

    def copy(self) -> Self:
        """A cache that goes its own way from here."""
        return self

    def checkpoint(self, ahead: int | None = None) -> Any:
        """What `rewind` needs to come back here: None where trimming is enough, for up to ``ahead`` tokens (or any)."""
        return None

    def rewind(self, checkpoint: Any, n: int) -> None:
        """Back to where ``checkpoint`` was taken, ``n`` tokens ago. The checkpoint stays good."""
        self.trim(n)

    def pad(self, starts: Sequence[int]) -> None:
        """Tells in which column each row begins; what is before is padding."""

    @classmethod
    def merge(cls, caches: Sequence[Self], shifts: Sequence[int], rows: Sequence[int]) -> "LayerCache":
        """One cache of all rows: those of ``caches[i]`` (``rows[i]`` of them) move ``shifts[i]`` columns back."""
        return cls()

    def rows(self, indices: Sequence[int], drop: int) -> Self:
        """A cache of some rows, without the first ``drop`` columns, which are padding in all of them."""
        return self


class NoCache(LayerCache):
    """The cache of a layer without a memory."""
