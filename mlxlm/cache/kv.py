"""Keys and values of every token so far, in buffers that grow by steps."""

from collections.abc import Sequence
from typing import Any, Self

import mlx.core as mx

from ..errors import GenerationError
from .base import LayerCache

STEP = 256  # tokens that a buffer grows by: few enough to waste little, many enough to copy seldom
Arrays = tuple[mx.array, ...]


def columns(array: mx.array, first: int, end: int, length: int) -> mx.array:
    """Columns ``first`` to ``end`` of (B, heads, S, dim), with zeros for those before 0 and up to ``length`` in all."""
    part = array[..., max(first, 0) : end, :]
    front = max(-first, 0)
    back = length - front - part.shape[2]
    return mx.pad(part, [(0, 0), (0, 0), (front, back), (0, 0)]) if front or back else part


def stepped(length: int) -> int:
    """``length`` rounded up to whole steps."""
    return -(-length // STEP) * STEP


class TokenBuffer(LayerCache):
    """What caches of keys and values share: buffers (B, heads, capacity, dim), and how many tokens went in.

    There are two of them; a subclass that packs its tokens has more, and says how by ``_encoded`` and ``_decoded``.
    ``stored`` tokens are in the buffers.
    """

    stored: int

    def __init__(self):
        self.buffers: Arrays = ()
        self.offset = 0  # tokens seen
        self.starts: list[int] | None = None  # the column that each row begins in; None for 0

    @property
    def keys(self) -> mx.array | None:
        """The keys (B, kv_heads, capacity, head_dim), None before the first token."""
        return self.buffers[0] if self.buffers else None

    @property
    def values(self) -> mx.array | None:
        """The values, as the keys."""
        return self.buffers[1] if self.buffers else None

    @property
    def capacity(self) -> int:
        """Tokens that the buffers have room for."""
        return self.buffers[0].shape[2] if self.buffers else 0

    @property
    def state(self) -> list[mx.array]:
        return list(self.buffers)

    def copy(self) -> Self:
        new = self._like(self.buffers)
        new.starts = None if self.starts is None else list(self.starts)
        return new

    def _like(self, buffers: Sequence[mx.array]) -> Self:
        """The same settings and counts with other buffers."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        # Assignment into a buffer rebinds it, and MLX copies on write what two names share.
        new.buffers = tuple(mx.array(b) for b in buffers)
        return new

    def pad(self, starts: Sequence[int]) -> None:
        self.starts = list(starts) if any(starts) else None

    def _encoded(self, keys: mx.array, values: mx.array) -> Arrays:
        """Keys and values as they are stored."""
        return keys, values

    def _decoded(self, arrays: Sequence[mx.array]) -> tuple[Any, Any]:
        """Keys and values from what was stored."""
        return arrays[0], arrays[1]

    def update(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """As `update_and_fetch`, in whatever form `layers.attend` takes: a cache that packs hands out packed ones."""
        return self.update_and_fetch(keys, values)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends (B, heads, L, dim) and returns the keys and values that these L queries may see, oldest first."""
        return self._decoded(self._updated(keys, values))

    def _updated(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        raise NotImplementedError

    def _append(self, start: int, new: Sequence[mx.array]) -> int:
        """Writes (B, heads, L, dim) from column ``start`` on, into buffers that have the room; returns the end."""
        end = start + new[0].shape[2]
        for buffer, part in zip(self.buffers, new, strict=True):
            buffer[..., start:end, :] = part
        return end

    def _grow(self, new: Sequence[Any], used: int, more: int = 0) -> None:
        """Buffers with room for L and ``more`` tokens besides the ``used`` ones, which they keep."""
        capacity = stepped(used + new[0].shape[2] + more)
        grown = []
        for i, like in enumerate(new):
            buffer = mx.zeros((*like.shape[:2], capacity, like.shape[3]), like.dtype)
            if used:
                buffer[..., :used, :] = self.buffers[i][..., :used, :]
            grown.append(buffer)
        self.buffers = tuple(grown)

    def make_room(self, new: Sequence[Any]) -> None:
        """Buffers that can take tokens of the shapes (B, heads, L, dim) and dtypes of ``new``."""
        raise NotImplementedError

    def _has_room(self, new: Sequence[Any]) -> bool:
        # Buffers without a token may have been made for others than those that then come.
        alike = self.stored or all(b.dtype == n.dtype for b, n in zip(self.buffers, new, strict=False))
        return bool(alike) and self.stored + new[0].shape[2] <= self.capacity

    def _alike(self) -> tuple:
        """What two caches must have in common to be rows of one."""
        return type(self), self.window, self.keep, [(b.shape[1], b.shape[3], b.dtype) for b in self.buffers]


def joined(caches: Sequence[TokenBuffer], rows: Sequence[int], parts: Sequence[Sequence[mx.array] | None]) -> Arrays:
    """The buffers of several caches under one another; a cache without any (None) has zeros for its rows."""
    filled = next(p for p in parts if p is not None)
    kinds = [c._alike() for c, p in zip(caches, parts, strict=True) if p is not None]
    if any(kind != kinds[0] for kind in kinds):
        raise GenerationError(
            "these caches are of different kinds and can't share a batch",
            found=" and ".join(sorted({type(c).__name__ for c in caches})),
            hint="Rows of one batch need the same model and the same cache settings.",
        )
    blank = [[mx.zeros((n, *f.shape[1:]), f.dtype) for f in filled] for n in rows]
    whole = [b if p is None else p for p, b in zip(parts, blank, strict=True)]
    return tuple(mx.concatenate(list(part), axis=0) for part in zip(*whole, strict=True))


def joined_starts(caches: Sequence[TokenBuffer], shifts: Sequence[int], rows: Sequence[int]) -> list[int] | None:
    """The columns that the rows of several caches begin in, once they have moved by ``shifts``."""
    starts = [s + d for c, d, n in zip(caches, shifts, rows, strict=True) for s in (c.starts or [0] * n)]
    return starts if any(starts) else None


class KVCache(TokenBuffer):
    """The growing cache: nothing is forgotten, so it can be trimmed to any earlier point."""

    kind = "full"

    @property
    def stored(self) -> int:
        """Tokens that the cache holds."""
        return self.offset

    def _updated(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        new = self._encoded(keys, values)
        self.make_room(new)
        self.offset = end = self._append(self.offset, new)
        return [b[..., :end, :] for b in self.buffers]

    def make_room(self, new: Sequence[Any]) -> None:
        if not self._has_room(new):
            self._grow(new, self.offset)

    def columns(self, length: int) -> tuple[int, int]:
        """Which tokens the next ``length`` queries will be given: (those kept in front, first of the rest)."""
        return 0, 0

    def can_trim(self, n: int) -> bool:
        return n <= self.offset

    def trim(self, n: int) -> int:
        n = min(n, self.offset)
        self.offset -= n
        return n

    @classmethod
    def merge(cls, caches: Sequence[Self], shifts: Sequence[int], rows: Sequence[int]) -> "KVCache":
        filled = next((c for c in caches if c.buffers), caches[0])
        new = filled._like(())
        new.offset = total = max(c.offset + d for c, d in zip(caches, shifts, strict=True))
        new.starts = joined_starts(caches, shifts, rows)
        if filled.buffers:
            room = stepped(total)
            parts = [
                [columns(b, -d, c.offset, room) for b in c.buffers] if c.buffers else None
                for c, d in zip(caches, shifts, strict=True)
            ]
            new.buffers = joined(caches, rows, parts)
        return new

    def rows(self, indices: Sequence[int], drop: int) -> Self:
        picked = mx.array(list(indices))
        room = stepped(self.offset - drop)
        new = self._like([columns(b[picked], drop, self.offset, room) for b in self.buffers])
        new.offset -= drop
        new.pad([self.starts[i] - drop for i in indices] if self.starts else [])
        return new
