"""What a model remembers of a conversation: one cache, what went into it, and copies at the borders of turns.

A prompt takes over what it has in common with that (ids, and media by their content): by extending the cache, by
taking tokens back where every layer can, else from the latest copy within the common part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cache import State
from ..generate.loop import offset
from ..generate.prompt import Prompt


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
            last = self.snapshots[-1] if self.snapshots else None
            common, self.cache = (last.length, copied(last.cache)) if last is not None else (0, None)
        if common == 0 or self.cache is None:
            self.clear()
            return 0
        self.keys = self.keys[:common]
        return common

    def learnt(self, cache: Any, keys: Sequence[int], media_end: int = 0) -> None:
        """Notes what the cache holds now: the first of ``keys``, as many as it has seen."""
        self.cache, self.keys, self.media_end = cache, list(keys)[: offset(cache)], media_end

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
