"""What a model remembers of a conversation: one cache, what went into it, and checkpoints at the borders of turns.

A prompt takes over what it has in common with that (ids, and media by their content): by extending the cache, by
taking tokens back where every layer can, else from the latest checkpoint within the common part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cache import Checkpoint, State
from ..generate.loop import offset
from ..generate.prompt import Prompt


class Snapshot(NamedTuple):
    """A way back to the cache after its first ``length`` ids: a `Checkpoint`, or a copy of another package's cache."""

    length: int
    point: Any
    nbytes: int


class Memory:
    """The cache of a conversation. ``most`` checkpoints are kept, of ``most_bytes`` in all, the oldest given up first.

    A ``store`` (`PrefixStore`) is asked where it may know a longer beginning, and told what was read; ``key`` is the
    model's in it.
    """

    def __init__(self, most: int = 4, most_bytes: int = 2 << 30, store: Any = None, key: str = ""):
        self.most, self.most_bytes = most, most_bytes
        self.store, self.key = store, key
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.cache: Any = None
        self.keys: list[int] = []
        self.media_end = 0  # positions behind media may be shifted, which can't be taken back
        self.snapshots: list[Snapshot] = []

    def fit(self, prompt: Prompt) -> int:
        """Brings the cache to a beginning of the prompt, the longest that it can, and shorter than it; its length.

        Where nothing can be kept the cache is None: a new one is due.
        """
        common = prompt.border(min(common_prefix(self.keys, prompt.keys), len(prompt.ids) - 1))
        kept = (one for one in self.snapshots if one.length <= common)
        self.snapshots = [one for one in kept if prompt.border(one.length) == one.length]
        surplus = len(self.keys) - common
        if self.cache is not None and surplus and not (common >= self.media_end and take_back(self.cache, surplus)):
            common = self._back_to(self.snapshots[-1]) if self.snapshots else 0
        if common == 0 or self.cache is None:
            self.clear()
            common = 0
        self.keys = self.keys[:common]
        return self._from_store(prompt, common)

    def _from_store(self, prompt: Prompt, common: int) -> int:
        """How much of the prompt is there already, by the store if that knows more."""
        if self.store is None:
            return common
        found, count = self.store.fetch(self.key, prompt.keys)
        if found is None or count <= common or prompt.border(count) != count:
            return common
        self.clear()
        self.learnt(found, prompt.keys)
        return count

    def _back_to(self, snapshot: Snapshot) -> int:
        if isinstance(snapshot.point, Checkpoint):
            self.cache.rewind(snapshot.point)
        else:
            self.cache = copy.deepcopy(snapshot.point)
        return snapshot.length

    def learnt(self, cache: Any, keys: Sequence[int], media_end: int = 0) -> None:
        """Notes what the cache holds now: the first of ``keys``, as many as it has seen."""
        self.cache, self.keys, self.media_end = cache, list(keys)[: offset(cache)], media_end

    def share(self) -> None:
        """Tells the store what has been read."""
        if self.store is not None and isinstance(self.cache, State) and self.keys:
            points = {one.length: one.point for one in self.snapshots if isinstance(one.point, Checkpoint)}
            self.store.insert(self.key, self.keys, self.cache, points)

    def snapshot(self, cache: Any, length: int) -> None:
        """Keeps a copy of the cache after ``length`` ids, if tokens can't always be taken back from it."""
        if length <= 0 or self.most <= 0 or (type(cache) is not State and can_take_back(cache, length)):
            return
        point = cache.checkpoint() if isinstance(cache, State) else copy.deepcopy(cache)
        if isinstance(point, Checkpoint) and not any(mark is not None for mark in point.layers):
            return  # a window that hasn't moved yet may have by the time that it is asked for
        made = Snapshot(length, point, int(getattr(point, "nbytes", 0)))
        self.snapshots = [one for one in self.snapshots if one.length != length] + [made]
        while len(self.snapshots) > self.most or sum(one.nbytes for one in self.snapshots) > self.most_bytes:
            self.snapshots.pop(0)

    @property
    def nbytes(self) -> int:
        """Bytes in the cache and its copies, what they share counted as often as it is held."""
        return int(getattr(self.cache, "nbytes", 0)) + sum(one.nbytes for one in self.snapshots)


def common_prefix(one: Sequence[int], other: Sequence[int] | np.ndarray) -> int:
    """How many ids two lists have in common from the beginning."""
    size = min(len(one), len(other))
    differs = np.asarray(one[:size], np.int64) != np.asarray(other[:size], np.int64)
    return int(differs.argmax()) if differs.any() else size


def can_take_back(cache: Any, count: int) -> bool:
    """Whether the last ``count`` tokens can be taken back in every layer."""
    if isinstance(cache, State):
        return cache.can_trim(count)
    return all(hasattr(layer, "is_trimmable") and layer.is_trimmable() for layer in cache)


def take_back(cache: Any, count: int) -> bool:
    """Takes the last ``count`` tokens back; False, and nothing done, where a layer can't."""
    if not can_take_back(cache, count):
        return False
    if isinstance(cache, State):
        return cache.trim(count) == count
    return all([layer.trim(count) == count for layer in cache])

