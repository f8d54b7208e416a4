"""Keys and values of the last tokens only, in the order they came, with a few of the first kept if asked.

Unlike a ring buffer it stays in order: new tokens are appended to a buffer with some slack, and when the slack is
used up the window moves to the front. A mask is then plain arithmetic, a copy of the window is paid once every
256 tokens, and the slack lets the cache be trimmed after a draft was refused.
"""

import mlx.core as mx

from .kv import TokenBuffer


class SlidingCache(TokenBuffer):
    """At most ``window`` tokens of the past, the first ``keep`` of the sequence among them."""

    def __init__(self, window: int, keep: int = 0):
        super().__init__()
        self.window, self.keep = window, keep
        self.stored = 0  # tokens in the buffer

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends (B, heads, L, dim); returns what these L queries may need: kept tokens, then the last ones."""
        length = keys.shape[2]
        self._make_room(length, keys, values)
        self.stored = end = self._append(self.stored, keys, values)
        self.offset += length
        first = end - min(end, self._wanted(length))
        return self._view(self.keys, first, end), self._view(self.values, first, end)

    def _wanted(self, length: int) -> int:
        """How many of the latest tokens ``length`` queries see, themselves included."""
        return max(self.window - self.keep, 1) + length - 1

    def _make_room(self, length: int, keys: mx.array, values: mx.array) -> None:
        capacity = 0 if self.keys is None else self.keys.shape[2]
        if self.stored + length <= capacity:
            return
        recent = min(self.stored - min(self.keep, self.stored), self._wanted(1) - 1)
        if self.stored > self.keep + recent:
            first = self.stored - recent
            self.keys, self.values = (
                mx.concatenate([b[..., : self.keep, :], b[..., first : self.stored, :]], axis=2) for b in self.state
            )
            self.stored = self.keep + recent
        self._grow(keys, values, self.stored)

    def _view(self, buffer: mx.array | None, first: int, end: int) -> mx.array:
        if first <= self.keep:
            return buffer[..., :end, :]  # type: ignore[index]
        recent = buffer[..., first:end, :]  # type: ignore[index]
        return mx.concatenate([buffer[..., : self.keep, :], recent], axis=2) if self.keep else recent  # type: ignore[index]

    def columns(self, length: int) -> tuple[int, int]:
        """Which tokens the next ``length`` queries will be given: (those kept in front, first of the rest)."""
        # Mirrors _make_room and update_and_fetch: what is compacted away, then what the view leaves out.
        capacity = 0 if self.keys is None else self.keys.shape[2]
        stored = self.stored
        if stored + length > capacity:
            stored = min(stored, self.keep + min(stored - min(self.keep, stored), self._wanted(1) - 1))
        end = stored + length
        first = end - min(end, self._wanted(length))
        dropped = self.offset - stored  # tokens before these are no longer stored, kept ones aside
        if first <= self.keep:
            return (self.keep, self.keep + dropped) if dropped else (0, 0)
        return self.keep, first + dropped

    def can_trim(self, n: int) -> bool:
        """Whether every token that the window wants would still be there."""
        if n > self.offset or n > self.stored:
            return False
        return self.stored == self.offset or self.stored - n >= self.keep + self._wanted(1) - 1

    def trim(self, n: int) -> int:
        """Forgets the last ``n`` tokens, or none where the window would be left with a hole."""
        if not self.can_trim(n):
            return 0
        self.offset -= n
        self.stored -= n
        return n
