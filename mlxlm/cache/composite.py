"""Several caches of one layer, for layers that attend and recur at once."""

import mlx.core as mx


class CompositeCache:
    """``cache[i]`` is the i-th part's; what is asked of all parts is asked of each."""

    def __init__(self, *parts):
        self.parts = parts

    def __getitem__(self, i: int):
        return self.parts[i]

    @property
    def offset(self) -> int:
        return max(p.offset for p in self.parts)

    @property
    def state(self) -> list[mx.array]:
        """The arrays that a loop must evaluate to keep the graph short."""
        return [a for p in self.parts for a in p.state]

    def can_trim(self, n: int) -> bool:
        return all(p.can_trim(n) for p in self.parts)

    def trim(self, n: int) -> int:
        """Forgets the last ``n`` tokens in every part, or in none."""
        return min(p.trim(n) for p in self.parts) if self.can_trim(n) else 0

    def copy(self) -> "CompositeCache":
        """A cache that goes its own way from here."""
        return type(self)(*(p.copy() for p in self.parts))

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self.parts)
