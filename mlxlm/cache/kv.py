"""Keys and values of every token so far, in a buffer that grows by steps."""

from typing import Self

import mlx.core as mx

STEP = 256  # tokens that a buffer grows by: few enough to waste little, many enough to copy seldom


def grown(buffer: mx.array | None, like: mx.array, used: int, capacity: int) -> mx.array:
    """A buffer (B, heads, capacity, dim) that holds the first ``used`` tokens of the old one."""
    shape = (*like.shape[:2], capacity, like.shape[3])
    new = mx.zeros(shape, like.dtype)
    if buffer is not None and used:
        new[..., :used, :] = buffer[..., :used, :]
    return new


class TokenBuffer:
    """What caches of keys and values share: two buffers (B, heads, capacity, dim), and how many tokens went in."""

    def __init__(self):
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0  # tokens seen

    @property
    def state(self) -> list[mx.array]:
        """The arrays that a loop must evaluate to keep the graph short."""
        return [] if self.keys is None or self.values is None else [self.keys, self.values]

    def copy(self) -> Self:
        """A cache that goes its own way from here."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        # Assignment into a buffer rebinds it, and MLX copies on write what two names share.
        new.keys = None if self.keys is None else mx.array(self.keys)
        new.values = None if self.values is None else mx.array(self.values)
        return new

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.state)

    def _append(self, start: int, keys: mx.array, values: mx.array) -> int:
        """Writes (B, heads, L, dim) from column ``start`` on, into buffers that have the room; returns the end."""
        end = start + keys.shape[2]
        self.keys[..., start:end, :] = keys  # type: ignore[index]
        self.values[..., start:end, :] = values  # type: ignore[index]
        return end

    def _grow(self, keys: mx.array, values: mx.array, used: int) -> None:
        """Buffers with room for L more tokens than the ``used`` ones, which they keep."""
        capacity = -(-(used + keys.shape[2]) // STEP) * STEP
        self.keys = grown(self.keys, keys, used, capacity)
        self.values = grown(self.values, values, used, capacity)


class KVCache(TokenBuffer):
    """The growing cache: nothing is forgotten, so it can be trimmed to any earlier point."""

    window, keep = None, 0

    @property
    def stored(self) -> int:
        """Tokens that the cache holds."""
        return self.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends (B, heads, L, dim) and returns all keys and values so far, oldest first."""
        if self.keys is None or self.offset + keys.shape[2] > self.keys.shape[2]:
            self._grow(keys, values, self.offset)
        self.offset = end = self._append(self.offset, keys, values)
        return self.keys[..., :end, :], self.values[..., :end, :]  # type: ignore[index]

    def columns(self, length: int) -> tuple[int, int]:
        """Which tokens the next ``length`` queries will be given: (those kept in front, first of the rest)."""
        return 0, 0

    def can_trim(self, n: int) -> bool:
        return n <= self.offset

    def trim(self, n: int) -> int:
        """Forgets the last ``n`` tokens; returns how many it forgot."""
        n = min(n, self.offset)
        self.offset -= n
        return n
