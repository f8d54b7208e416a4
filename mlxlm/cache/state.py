"""All that a conversation has left behind: a list with one cache for each layer, and where its next token stands.

Batches: `State.merge` makes one state of several, `State.filter` takes some rows out of it, `State.split` makes one
state of each row again. None of them changes what it is given, and all tokens that were read keep their positions: the
rows are aligned at their last token, and what is before their first one is padding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import GenerationError
from .base import LayerCache


@dataclass(frozen=True)
class Checkpoint:
    """What `State.rewind` needs: arrays of the layers that can't be trimmed, and where the state stood."""

    offset: int
    expected: int
    layers: tuple[Any, ...]
    shift: int | mx.array = 0

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(mark) for mark in self.layers)


def _nbytes(mark: Any) -> int:
    return sum(map(_nbytes, mark)) if isinstance(mark, list) else 0 if mark is None else mark.nbytes


class State(list):
    """One entry per layer. ``offset`` counts the tokens of every row, padding included.

    ``left_padding`` says for each row of a batch how many of the first tokens are padding; ``shift`` is how far
    a position is from the token count, once images were seen (M-RoPE). ``expected`` is the length that the
    context will have at the end of a prompt that comes in chunks: ropes that depend on it then turn every chunk alike.
    """

    _shifts: tuple[tuple[int, int | mx.array], ...] = ()  # (tokens, shift from there on)

    def __init__(self, caches: Iterable[Any], left_padding: Sequence[int] | None = None):
        super().__init__(caches)
        self.offset = max((c.offset for c in self), default=0)
        self.shift = 0
        self.expected = 0
        self.left_padding = list(left_padding) if left_padding is not None and any(left_padding) else None
        self.policy: Any = None  # what a generation asked of this memory, for its status
        self.batch = len(left_padding) if left_padding is not None else None
        if self.left_padding is not None:
            for cache in self:
                cache.pad(self.left_padding)

    @property
    def shift(self) -> int | mx.array:
        """How far the next position is from ``offset``: one number, or one for each row (B,)."""
        # What was set for tokens that have been taken back is forgotten here, however they were taken back.
        self._shifts = tuple(old for old in self._shifts if old[0] <= self.offset)
        return self._shifts[-1][1] if self._shifts else 0

    @shift.setter
    def shift(self, value: int | mx.array) -> None:
        self.move(value)

    @property
    def shifts(self) -> list[tuple[int, int | mx.array]]:
        """(tokens, shift from there on) of each place where it changed, in order."""
        return [old for old in self._shifts if old[0] <= self.offset]

    def move(self, shift: int | mx.array, at: int | None = None) -> None:
        """Sets ``shift`` from token ``at`` on, by default from here; it ends with tokens before ``at`` taken back."""
        at = self.offset if at is None else at
        self._shifts = (*(old for old in self._shifts if old[0] < at), (at, shift))

    @property
    def arrays(self) -> list[mx.array]:
        """Every array of every layer: what a generation loop evaluates after a chunk."""
        return [a for cache in self for a in cache.state]

    @property
    def rows(self) -> int:
        """How many rows the state holds; 1 before the first token, unless padding said otherwise."""
        if self.batch is not None:
            return self.batch
        return next((a.shape[0] for a in self.arrays), 1)

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
        """A conversation that goes its own way from here: O(layers), as arrays are shared until either changes."""
        return self._like(cache.copy() for cache in self)

    def _like(self, caches: Iterable[Any]) -> "State":
        new = type(self)(caches, self.left_padding)
        new.offset, new.shift, new.expected, new.batch = self.offset, self.shift, self.expected, self.batch
        new.policy = self.policy
        new._shifts = self._shifts
        return new

    def checkpoint(self, ahead: int | None = None) -> Checkpoint:
        """A point to come back to by `rewind`, after at most ``ahead`` tokens, or any number.

        It costs nothing for layers that can be trimmed. The others share their arrays with it, which cost memory once
        they have changed: a recurrent layer's whole memory, and a window of keys and values.
        """
        return Checkpoint(self.offset, self.expected, tuple(c.checkpoint(ahead) for c in self), self.shift)

    def rewind(self, checkpoint: Checkpoint) -> int:
        """Back to a checkpoint of this state, which may be used again; returns how many tokens were taken back."""
        n = self.offset - checkpoint.offset
        for cache, mark in zip(self, checkpoint.layers, strict=True):
            cache.rewind(mark, n)
        self.offset, self.expected, self.shift = checkpoint.offset, checkpoint.expected, checkpoint.shift
        return n

    @classmethod
    def merge(cls, states: Sequence["State"]) -> "State":
        """One state whose rows are those of all ``states``, in their order; the shorter ones get padding in front.

        States without a token may be among them. Raises GenerationError if they aren't of one model and one kind.
        """
        if not states or any(len(s) != len(states[0]) or type(s) is not type(states[0]) for s in states):
            raise GenerationError("only caches of one model can be merged", where="State.merge")
        if not all(isinstance(c, LayerCache) for s in states for c in s):
            raise GenerationError("caches of another package can't be merged", where="State.merge")
        counts, total = [s.rows for s in states], max(s.offset for s in states)
        shifts = [total - s.offset for s in states]
        kinds = [{type(c) for c in layer if c.offset} or {type(layer[0])} for layer in zip(*states, strict=True)]
        if any(len(k) > 1 for k in kinds):
            found = " and ".join(sorted({kind.__name__ for k in kinds if len(k) > 1 for kind in k}))
            raise GenerationError("caches of different kinds can't be merged", where="State.merge", found=found)
        pads = [p + d for s, d, n in zip(states, shifts, counts, strict=True) for p in (s.left_padding or [0] * n)]
        layers = zip(kinds, zip(*states, strict=True), strict=True)
        new = cls((next(iter(kind)).merge(layer, shifts, counts) for kind, layer in layers), pads)
        new.offset, new.expected = total, max(s.expected + d for s, d in zip(states, shifts, strict=True))
        if any(not isinstance(s.shift, int) or s.shift for s in states):
            new.shift = mx.concatenate([_per_row(s.shift, n) for s, n in zip(states, counts, strict=True)])
        return new

    def filter(self, rows: Sequence[int]) -> "State":
        """The state of some rows, by their numbers and in that order; padding that all of them have is dropped."""
        count = self.rows
        if not rows or not all(0 <= r < count for r in rows):
            raise GenerationError("no such rows", where="State.filter", found=list(rows), expected=f"0 to {count - 1}")
        padding = self.left_padding or [0] * count
        drop = min(padding[r] for r in rows)
        new = type(self)((c.rows(rows, drop) for c in self), [padding[r] - drop for r in rows])
        new.offset, new.expected = self.offset - drop, max(self.expected - drop, 0)
        new.shift = self.shift if isinstance(self.shift, int) else _per_row(self.shift, count)[mx.array(list(rows))]
        return new

    def split(self) -> list["State"]:
        """A state for each row, without its padding."""
        return [self.filter([row]) for row in range(self.rows)]

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self)


def _per_row(shift: int | mx.array, rows: int) -> mx.array:
    return mx.broadcast_to(mx.array(shift).reshape(-1), (rows,))


__all__ = ["Checkpoint", "LayerCache", "State"]
