"""Beginnings of conversations that are kept, so that a prompt that starts like an earlier one isn't read again.

An entry is the memory after some tokens. Attention can be trimmed back to any shared beginning; layers that can't (a
recurrent state, a window that has moved on) come back to a checkpoint: one at each turn's border and one every so many
tokens of a prompt. Checkpoints hold those layers alone, so a hybrid's attention is stored once.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..cache import Checkpoint, State
from ..cache.radix import RadixTree
from .checks import integer


@dataclass
class Entry:
    """The memory after ``tokens``, and checkpoints by the number of tokens that they come after."""

    tokens: np.ndarray
    state: State
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + sum(c.nbytes for c in self.checkpoints.values()) + self.tokens.nbytes

    def reach(self, limit: int) -> int:
        """The greatest number of tokens, at most ``limit``, that the memory can be brought back to."""
        if limit >= len(self.tokens):
            return len(self.tokens)
        if self.trims(limit):
            return limit
        return max((at for at in self.checkpoints if at <= limit), default=0)

    def restored(self, at: int) -> State:
        """A state of its own after the first ``at`` tokens, one of those that ``reach`` gives."""
        state = self.state.copy()
        if at < len(self.tokens):
            if self.trims(at):
                state.trim(len(self.tokens) - at)
            else:
                state.rewind(self.checkpoints[at])
        return state

    def trims(self, at: int) -> bool:
        """Whether trimming is enough to come back to the first ``at`` tokens."""
        # Positions behind an image are shifted, and where it began only checkpoints know.
        return plain(self.state) and self.state.can_trim(len(self.tokens) - at)

    def thin(self, most: int) -> None:
        """Drops checkpoints down to ``most``: first those whose loss costs least, told by gap and age."""
        while len(self.checkpoints) > most:
            places, end = [0, *sorted(self.checkpoints)], len(self.tokens) + 1
            gaps = zip(places, places[1:], [*places[2:], end], strict=False)
            del self.checkpoints[min(gaps, key=lambda g: (g[2] - g[0]) / (end - g[1]))[1]]


class PrefixStore:
    """Entries by model and tokens, the least recently used dropped first. Threads may share a store.

    max_bytes: of all arrays together. every: tokens between two checkpoints while a prompt is read.
    most_checkpoints: in one entry. ``hits``, ``misses`` and ``reused_tokens`` count what `fetch` found.
    """

    def __init__(self, max_bytes: int = 2 * 10**9, *, every: int = 1024, most_checkpoints: int = 16):
        self.max_bytes = integer("max_bytes", max_bytes, 0)
        self.every = integer("every", every, 1)
        self.most_checkpoints = integer("most_checkpoints", most_checkpoints, 0)
        self.hits = self.misses = self.reused_tokens = 0
        self._trees: dict[str, RadixTree] = {}
        self._used: OrderedDict[tuple[str, bytes], Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._used)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays; what entries share is counted for each of them."""
        with self._lock:
            return self._size()

    def fetch(self, key: str, tokens: Sequence[int]) -> tuple[State | None, int]:
        """(a state of its own, how many of the tokens it has read), or (None, 0).

        key: see `key`. At least one token is left to be read: its logits begin the answer.
        """
        ids = np.asarray(tokens, np.int64)
        with self._lock:
            entry, at = self._best(key, ids, len(ids) - 1)
            if entry is None:
                self.misses += 1
                return None, 0
            self._used.move_to_end((key, entry.tokens.tobytes()))
            self.hits += 1
            self.reused_tokens += at
            return entry.restored(at), at

    def _best(self, key: str, ids: np.ndarray, limit: int) -> tuple[Entry | None, int]:
        best, at = None, 0
        for shared, entry in self._trees.get(key, RadixTree()).candidates(ids):
            if min(shared, limit) <= at:
                break
            reach = entry.reach(min(shared, limit))
            if at < reach:
                best, at = entry, reach
        return best, at

    def insert(self, key: str, tokens: Sequence[int], state: State,
               checkpoints: Mapping[int, Checkpoint] | None = None) -> bool:
        """Keeps a copy of ``state``, which has read ``tokens``; False where it is too large.

        Entries that this one begins with become checkpoints of it. checkpoints: of this state, by tokens read.
        """
        ids = np.asarray(tokens, np.int64)
        if len(ids) == 0 or state.offset != len(ids) or state.left_padding is not None:
            return False
        own = state.copy()
        mx.eval(own.arrays, [_arrays(c) for c in (checkpoints or {}).values()])
        with self._lock:
            tree = self._trees.setdefault(key, RadixTree())
            entry = Entry(ids, own, dict(checkpoints or {}))
            for shared, other in list(tree.candidates(ids)):
                entry.checkpoints.update({at: c for at, c in other.checkpoints.items() if at <= shared})
                if shared == len(other.tokens) < len(ids):
                    entry.checkpoints[shared] = other.state.checkpoint()
                    self._drop(key, other)
                elif shared == len(ids) < len(other.tokens) and other.reach(shared) == shared:
                    self._used.move_to_end((key, other.tokens.tobytes()))
                    return True  # it is there already, with more behind it
            if entry.trims(0):
                entry.checkpoints.clear()  # trimming reaches every place
            entry.thin(self.most_checkpoints)
            while entry.nbytes > self.max_bytes and entry.checkpoints:
                entry.thin(len(entry.checkpoints) - 1)
            if entry.nbytes > self.max_bytes:
                return False
            tree.insert(ids, entry)
            self._used[key, ids.tobytes()] = entry
            self._used.move_to_end((key, ids.tobytes()))
            while self._size() > self.max_bytes:
                (oldest, _), dropped = next(iter(self._used.items()))
                self._drop(oldest, dropped)
            return True

    def clear(self) -> None:
        """Forgets everything but the counts."""
        with self._lock:
            self._trees.clear()
            self._used.clear()

    def entries(self, key: str) -> list[Entry]:
        """Those of one model, the least recently used first."""
        with self._lock:
            return [entry for (own, _), entry in self._used.items() if own == key]

    def _drop(self, key: str, entry: Entry) -> None:
        self._trees[key].remove(entry.tokens)
        self._used.pop((key, entry.tokens.tobytes()), None)

    def _size(self) -> int:
        return sum(entry.nbytes for entry in self._used.values())

    @staticmethod
    def key(model: Any, **parameters: Any) -> str:
        """What entries are found by: the model, and those of a generation's parameters that shape its cache."""
        from .parameters import GenerateParameters
        from .reuse import settings_of

        return model_key(model, settings_of(GenerateParameters.of(parameters)))

    def save(self, folder: Any, model: Any, **parameters: Any) -> int:
        """Writes a model's entries to a folder, in place of those that are there; returns how many.

        parameters: as `key` takes them. Raises SourceError where it can't be written.
        """
        from .prefix_files import save_entries

        return save_entries(self, folder, self.key(model, **parameters))

    def load(self, folder: Any, model: Any, **parameters: Any) -> int:
        """Adds what `save` wrote; returns how many entries.

        Raises SourceError for files that are damaged or were written for another model.
        """
        from .prefix_files import load_entries

        return load_entries(self, folder, model, self.key(model, **parameters))


def plain(state: State) -> bool:
    """Whether positions are the same for all rows, so that they can be followed back."""
    return isinstance(state.shift, int)


def _arrays(checkpoint: Checkpoint) -> list[mx.array]:
    def flat(mark: Any) -> list[Any]:
        return [a for part in mark for a in flat(part)] if isinstance(mark, list) else [mark.state] if mark else []

    leaves = tree_flatten([flat(mark) for mark in checkpoint.layers])
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]


def model_key(model: Any, settings: str = "") -> str:
    """A model's fingerprint (its type and a sample of every weight) and what else shapes its cache."""
    from .fingerprint import fingerprint

    return f"{fingerprint(model)} {settings}".strip()
