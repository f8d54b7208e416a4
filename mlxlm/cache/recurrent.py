"""The memory of a recurrent layer: a few arrays of fixed size, each replaced as a whole at every step."""

import mlx.core as mx


class RecurrentCache:
    """``slots`` arrays, None until the first token. It can't be trimmed, but a copy costs nothing."""

    def __init__(self, slots: int):
        self.arrays: list[mx.array | None] = [None] * slots
        self.offset = 0

    def __getitem__(self, slot: int) -> mx.array | None:
        return self.arrays[slot]

    def __setitem__(self, slot: int, array: mx.array) -> None:
        self.arrays[slot] = array

    def advance(self, length: int) -> None:
        self.offset += length

    @property
    def state(self) -> list[mx.array]:
        """The arrays that a loop must evaluate to keep the graph short."""
        return [a for a in self.arrays if a is not None]

    def can_trim(self, n: int) -> bool:
        return n == 0

    def trim(self, n: int) -> int:
        """Forgets nothing: what went into the state can't be taken out again."""
        return 0

    def copy(self) -> "RecurrentCache":
        """A cache that goes its own way from here; arrays are immutable, so they are shared."""
        new = type(self)(len(self.arrays))
        new.arrays, new.offset = list(self.arrays), self.offset
        return new

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.state)
