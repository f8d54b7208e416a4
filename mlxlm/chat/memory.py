"""What a model remembers of a conversation: one cache, the ids that went into it, and copies at the borders of turns.

A prompt takes over what it has in common with the ids: by extending the cache, by taking tokens back where every
layer can, else from the latest copy within the common part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cache import State
from ..generate.loop import offset


class Snapshot(NamedTuple):
    """A copy of the cache after its first ``length`` ids."""

    length: int
    cache: Any
    nbytes: int


class Memory:
    """The cache of a conversation. ``most`` copies are kept, of ``most_bytes`` in all, the oldest given up first."""

    def __init__(self, most: int = 4, most_bytes: int = 2 << 30):
        self.most, self.most_bytes = most, most_bytes
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.cache: Any = None
        self.tokens: list[int] = []
        self.snapshots: list[Snapshot] = []

    def fit(self, ids: Sequence[int] | np.ndarray, media_end: int = 0) -> int:
        """Brings the cache to a beginning of ``ids``, the longest that it can, and shorter than them; its length.

        Where nothing can be kept the cache is None: a new one is due. With media, whose places look alike whatever
        the picture, all up to ``media_end`` must be kept, and nothing new may be among them.
        """
        common = min(common_prefix(self.tokens, ids), len(ids) - 1)
        if common < media_end or self.cache is None:
            self.clear()
            return 0
        surplus = len(self.tokens) - common
        self.snapshots = [one for one in self.snapshots if one.length <= common]
        if surplus and not take_back(self.cache, surplus):
            if not self.snapshots:
                self.clear()
                return 0
            common, self.cache = self.snapshots[-1].length, copied(self.snapshots[-1].cache)
        self.tokens = self.tokens[:common]
        if common == 0 or common < media_end:
            self.clear()
            return 0
        return common

    def learnt(self, cache: Any, ids: Sequence[int]) -> None:
        """Notes which ids the cache holds now: the first of ``ids``, as many as it has seen."""
        self.cache, self.tokens = cache, list(ids)[: offset(cache)]

    def snapshot(self, cache: Any, length: int) -> None:
        """Keeps a copy of the cache after ``length`` ids, if tokens can't just be taken back from it."""
        if length <= 0 or self.most <= 0 or can_take_back(cache, length):
            return
        kept = copied(cache)
        nbytes = int(getattr(kept, "nbytes", 0))
        self.snapshots = [one for one in self.snapshots if one.length != length] + [Snapshot(length, kept, nbytes)]
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


def copied(cache: Any) -> Any:
    """A cache that goes its own way from here."""
    return cache.copy() if isinstance(cache, State) else copy.deepcopy(cache)
