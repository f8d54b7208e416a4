"""All that a conversation has left behind: a list with one cache for each layer, and where its next token stands."""

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx


class NoCache:
    """The cache of a layer without a memory."""

    offset, nbytes = 0, 0
    state: tuple = ()

    def can_trim(self, n: int) -> bool:
        return True

    def trim(self, n: int) -> int:
        return n

    def copy(self) -> "NoCache":
        return self


class State(list):
    """One entry per layer. ``offset`` counts the tokens of every row, padding included.

    ``left_padding`` says for each row of a batch how many of the first tokens are padding; ``shift`` is how far
    a position is from the token count, once images were seen (M-RoPE). ``expected`` is the length that the
    context will have at the end of a prompt that comes in chunks: ropes that depend on it then turn every chunk alike.
    """

    def __init__(self, caches: Iterable[Any], left_padding: Sequence[int] | None = None):
        super().__init__(caches)
        self.offset = max((c.offset for c in self), default=0)
        self.shift: int | mx.array = 0
        self.expected = 0
        self.left_padding = list(left_padding) if left_padding is not None and any(left_padding) else None

    @property
    def arrays(self) -> list[mx.array]:
        """Every array of every layer: what a generation loop evaluates after a chunk."""
        return [a for cache in self for a in cache.state]

    def can_trim(self, n: int = 1) -> bool:
        """Whether the last ``n`` tokens can be taken back in every layer."""
        return n <= self.offset and all(cache.can_trim(n) for cache in self)

    def trim(self, n: int) -> int:
        """Takes back the last ``n`` tokens, in every layer or in none; returns how many."""
        if n <= 0 or not self.can_trim(n):
            return 0
        for cache in self:
            cache.trim(n)
        self.offset -= n
        self.expected = min(self.expected, self.offset)
        return n

    def copy(self) -> "State":
        """A conversation that goes its own way from here."""
        new = type(self)((cache.copy() for cache in self), self.left_padding)
        new.offset, new.shift, new.expected = self.offset, self.shift, self.expected
        return new

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self)
