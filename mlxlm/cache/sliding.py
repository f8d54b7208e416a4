"""Keys and values of the last tokens only, in the order they came, with a few of the first kept if asked.

Unlike a ring buffer it stays in order: new tokens are appended to a buffer with some slack, and when the slack is
used up the window moves to the front. A mask is then plain arithmetic, a copy of the window is paid once every
256 tokens, and the slack lets the cache be trimmed after a draft was refused.
"""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx

from .kv import STEP, TokenBuffer, columns, joined, joined_starts, stepped


class SlidingCache(TokenBuffer):
    """At most ``window`` tokens of the past, the first ``keep`` of each row among them.

    Once tokens were forgotten, the buffers hold ``kept`` (= ``keep``) columns with the first tokens of each row, then
    the recent ones, of which the first stands in column ``recent``.
    """

    kind = "sliding"

    def __init__(self, window: int, keep: int = 0):
        super().__init__()
        self.window, self.keep = window, keep
        self.stored = 0  # tokens in the buffer
        self.kept = 0  # how many of them are first ones, apart from the rest
        self.filled = 0  # first tokens of columns before this one are among the kept, where they were kept

    @property
    def recent(self) -> int:
        """The column of the first token that is stored and not kept; 0 while nothing was forgotten."""
        return self.offset - (self.stored - self.kept)

    def _updated(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        new, length = self._encoded(keys, values), keys.shape[2]
        self.make_room(new)
        self.stored = end = self._append(self.stored, new)
        self.offset += length
        kept, first = self._seen(self.kept, end, length)
        if first <= kept:
            return [b[..., :end, :] for b in self.buffers]
        recent = [b[..., first:end, :] for b in self.buffers]
        return self._after_front(recent) if kept else recent

    def _after_front(self, parts: Sequence[mx.array]) -> list[mx.array]:
        """``parts`` with the first tokens of each row before them; those that came late join the kept ones here."""
        if self.starts is not None and self.filled < max(self.starts) + self.keep:
            for buffer, front in zip(self.buffers, self._front(), strict=True):
                buffer[..., : self.keep, :] = front
            self.filled = self.offset
        return [mx.concatenate([b[..., : self.keep, :], p], axis=2) for b, p in zip(self.buffers, parts, strict=True)]

    def _wanted(self, length: int) -> int:
        """How many of the latest tokens ``length`` queries see, themselves included."""
        return max((self.window or 1) - self.keep, 1) + length - 1

    def _seen(self, kept: int, end: int, length: int) -> tuple[int, int]:
        """Of ``end`` stored tokens the queries are given those before the first number and from the second on."""
        if self.keep and not kept and self.starts is not None:
            return 0, 0  # each row's first tokens are somewhere else: a mask tells them
        front = self.keep if self.keep and not kept else kept
        return front, max(end - self._wanted(length), front)

    def _compacted(self, length: int) -> tuple[int, int] | None:
        """(stored, kept) tokens once there is room for ``length`` more, or None where there is already."""
        if self.stored + length <= self.capacity:
            return None
        recent = min(self.stored, self._wanted(1) - 1)
        if self.stored <= self.keep + recent:
            return None
        return self.keep + recent, self.keep

    def make_room(self, new: Sequence[Any]) -> None:
        length = new[0].shape[2]
        if self._has_room(new):
            return
        if compacted := self._compacted(length):
            first = self.stored - (compacted[0] - self.keep)
            recent = [b[..., first : self.stored, :] for b in self.buffers]
            if self.keep:
                recent = _beside(self._front(), recent)
            self.buffers = tuple(recent)
            self.stored, self.kept, self.filled = *compacted, self.offset
        # Room for a whole step more where the window moved, or a window of whole steps would move with every token.
        self._grow(new, self.stored, STEP - 1 if compacted else 0)

    def _front(self) -> list[mx.array]:
        """The first ``keep`` tokens of each row (B, heads, keep, dim); zeros where there are fewer columns."""
        if self.starts is None:
            return [columns(b, 0, min(self.keep, self.stored), self.keep) for b in self.buffers]
        column = mx.array(self.starts)[:, None] + mx.arange(self.keep)
        stored = self.kept + column - self.recent
        if self.kept:
            stored = mx.where(column < self.recent, mx.arange(self.keep), stored)
        stored = mx.clip(stored, 0, self.stored - 1)[:, None, :, None]
        return [mx.take_along_axis(b, stored, axis=2) for b in self.buffers]

    def columns(self, length: int) -> tuple[int, int]:
        """Which tokens the next ``length`` queries will be given: (those kept in front, first of the rest)."""
        stored, kept = self._compacted(length) or (self.stored, self.kept)
        end = stored + length
        recent = self.offset - (stored - kept)
        front, first = self._seen(kept, end, length)
        if first <= front:  # all of it
            return (kept, recent) if kept else (0, recent)
        return front, recent + first - kept

    def can_trim(self, n: int) -> bool:
        """Whether every token that the window wants would still be there."""
        if n > self.offset or n > self.stored:
            return False
        return self.stored == self.offset or self.stored - n >= self.keep + self._wanted(1) - 1

    def trim(self, n: int) -> int:
        """Forgets the last ``n`` tokens, or none where the window would be left with a hole."""
        if not self.can_trim(n):
            return 0
        self._forget(n)
        return n

    def _forget(self, n: int) -> None:
        self.offset -= n
        self.stored -= n
        self.filled = min(self.filled, self.offset)

    def checkpoint(self, ahead: int | None = None) -> Any:
        # Until the window moves, taking tokens back leaves what was there.
        stays = ahead is not None and self.stored + ahead <= self.capacity
        return None if stays else self.copy()

    def rewind(self, checkpoint: Any, n: int) -> None:
        if checkpoint is None:
            self._forget(n)
        else:
            self.__dict__.update(checkpoint.copy().__dict__)

    @classmethod
    def merge(cls, caches: Sequence[Self], shifts: Sequence[int], rows: Sequence[int]) -> "SlidingCache":
        filled = next((c for c in caches if c.buffers), caches[0])
        new, pairs = filled._like(()), list(zip(caches, shifts, strict=True))
        new.offset = total = max(c.offset + d for c, d in pairs)
        new.starts = joined_starts(caches, shifts, rows)
        # The longest stretch that no row has a hole in.
        first = max((c.recent + d for c, d in pairs if c.recent), default=0)
        new.kept, new.filled = filled.keep if first else 0, total
        new.stored = new.kept + total - first
        if filled.buffers:
            room = stepped(total - first)
            parts = [c._stretch(first - d, room, new.kept) if c.buffers else None for c, d in pairs]
            new.buffers = joined(caches, rows, parts)
        return new

    def _stretch(self, first: int, room: int, kept: int) -> list[mx.array]:
        """Buffers with ``kept`` first tokens, and all from column ``first`` on in ``room`` columns."""
        at = self.kept + first - self.recent
        body = [columns(b, at, self.stored, room) for b in self.buffers]
        return _beside(self._front(), body) if kept else body

    def rows(self, indices: Sequence[int], drop: int) -> Self:
        picked, forgotten = mx.array(list(indices)), self.recent - drop
        new = self._like([b[picked] for b in self.buffers])
        new.offset -= drop
        new.pad([self.starts[i] - drop for i in indices] if self.starts else [])
        if not self.buffers or (forgotten > 0 and forgotten >= self.keep):
            if self.kept:  # with those of them that came later
                front = [b[picked] for b in self._front()]
                new.buffers = tuple(_beside(front, [b[..., self.kept :, :] for b in new.buffers]))
                new.filled = new.offset
            return new
        new.stored, new.kept, room = new.offset, 0, stepped(new.offset)
        body = [columns(b, self.kept - min(forgotten, 0), self.stored, room) for b in new.buffers]
        if forgotten > 0:  # so few that they are all among the kept
            starts = mx.array(new.starts or [0] * len(indices))
            place = mx.clip(mx.arange(forgotten) - starts[:, None], 0, self.keep - 1)[:, None, :, None]
            front = [mx.take_along_axis(b, place, axis=2) for b in new.buffers]
            body = _beside(front, body)
        new.buffers = tuple(body)
        return new


def _beside(left: Sequence[mx.array], right: Sequence[mx.array]) -> list[mx.array]:
    """Each of ``left`` followed by its counterpart of ``right``, column after column."""
    return [mx.concatenate([a, b], axis=2) for a, b in zip(left, right, strict=True)]


class ChunkedCache(SlidingCache):
    """For layers that see their own chunk of the text alone: what lies a whole chunk back is never asked for again."""

    kind = "chunked"


__all__ = ["STEP", "ChunkedCache", "SlidingCache"]
