"""What a caller asked of a state's memory, where it is in force, and where not and why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .base import LayerCache
from .composite import CompositeCache
from .kv import KVCache
from .quantized import QuantizedKVCache, check_quantization, group_of
from .recurrent import RecurrentCache
from .sliding import SlidingCache
from .state import State


@dataclass(frozen=True)
class CachePolicy:
    """Quantization of growing caches to ``bits``, once they hold ``start`` tokens (mlx-lm's kv_bits, …).

    ``max_size`` is what was asked as ``max_kv_size``, for the status alone: `Decoder.make_cache` sees to it.
    """

    bits: int | None = None
    group_size: int = 64
    start: int = 0
    max_size: int | None = None

    def __post_init__(self):
        check_quantization(self.bits, self.group_size, self.start)

    def apply(self, state: State) -> bool:
        """Packs each layer that is due; True once nothing is left to do for this state."""
        if self.bits is None:
            return True
        done = True
        for i, cache in enumerate(state):
            state[i], finished = self._applied(cache)
            done = done and finished
        return done

    def _applied(self, cache: Any) -> tuple[Any, bool]:
        if isinstance(cache, CompositeCache):
            finished = [self._applied(part) for part in cache.parts]
            cache.parts = [part for part, _ in finished]
            return cache, all(done for _, done in finished)
        if not isinstance(cache, LayerCache):
            return self._foreign(cache)
        if type(cache) is not KVCache:
            return cache, True
        if cache.offset < self.start or not cache.buffers:
            return cache, False
        group = group_of([b.shape[3] for b in cache.buffers], self.group_size)
        return (cache, True) if group is None else (QuantizedKVCache.of(cache, group, self.bits or 8), True)


    def _foreign(self, cache: Any) -> tuple[Any, bool]:
        """The same for another package's growing cache, which packs itself."""
        if type(cache).__name__ != "KVCache" or not hasattr(cache, "to_quantized"):
            return cache, True
        if cache.offset < self.start or cache.keys is None:
            return cache, False
        group = group_of([cache.keys.shape[3], cache.values.shape[3]], self.group_size)
        return (cache, True) if group is None else (cache.to_quantized(group_size=group, bits=self.bits), True)


FIRST = 4
"""Tokens that stay in front where a cache is bounded that would keep everything, as in mlx-lm."""


def bounded(cache: Any, size: int) -> Any:
    """An empty cache that keeps ``size`` tokens at most, in every part that keeps any; a model's window stays one."""
    if isinstance(cache, CompositeCache):
        return CompositeCache(*(bounded(part, size) for part in cache.parts))
    if type(cache) is KVCache:
        return SlidingCache(size, FIRST)
    if isinstance(cache, SlidingCache) and cache.window is not None and cache.window > size:
        return type(cache)(size, cache.keep)
    return cache


@dataclass(frozen=True)
class LayerStatus:
    """One layer's memory: its kind, what it holds, and why it is no other than that.

    ``tokens`` are those stored, ``seen`` those read; ``capacity`` is the most it will store, None for no bound;
    ``bits`` is None for arrays as they came. ``reason`` is for a reader.
    """

    layer: int
    kind: str
    tokens: int
    seen: int
    nbytes: int
    capacity: int | None = None
    keep: int = 0
    bits: int | None = None
    group_size: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        bound = "" if self.capacity is None else f" for a window of {self.capacity}"
        held = f"{self.tokens} tokens{bound}"
        if self.kind.endswith("recurrent"):
            held = f"a state after {self.seen} tokens"
        packed = "" if self.bits is None else f", {self.bits} bits in groups of {self.group_size}"
        text = f"layer {self.layer}: {self.kind}, {held}{packed}, {self.nbytes:,} bytes"
        return f"{text}; {self.reason}" if self.reason else text


def cache_status(state: Any, policy: CachePolicy | None = None) -> list[LayerStatus]:
    """What is in force in each layer of a state, and why; parts of a layer come as ``kind`` "composite/…".

    ``policy`` is what was asked for; a state that a generation has used remembers its own.
    """
    asked: CachePolicy = policy or getattr(state, "policy", None) or CachePolicy()
    return [row for i, cache in enumerate(state) for row in _rows(i, cache, asked)]


def _rows(layer: int, cache: Any, policy: CachePolicy, prefix: str = "") -> list[LayerStatus]:
    if isinstance(cache, CompositeCache):
        return [row for part in cache.parts for row in _rows(layer, part, policy, "composite/")]
    kind = getattr(cache, "kind", type(cache).__name__)
    seen = int(getattr(cache, "offset", 0))
    return [
        LayerStatus(
            layer,
            prefix + kind,
            tokens=int(getattr(cache, "stored", 0)),
            seen=seen,
            nbytes=cache.nbytes,
            capacity=getattr(cache, "window", None),
            keep=getattr(cache, "keep", 0),
            bits=getattr(cache, "bits", None),
            group_size=getattr(cache, "group_size", None),
            reason=_reason(cache, policy),
        )
    ]


def _reason(cache: Any, policy: CachePolicy) -> str:
    told = [why(cache, policy) for kind, why in REASONS if isinstance(cache, kind)]
    return "; ".join(part for part in (told[0] if told else []) if part)


def _full(cache: KVCache, policy: CachePolicy) -> list[str]:
    bounded = "max_kv_size not applied: the cache was made without it" if policy.max_size else ""
    if policy.bits is None:
        return [bounded]
    dims = [b.shape[3] for b in cache.buffers]
    if dims and group_of(dims, policy.group_size) is None:
        widths = " and ".join(map(str, sorted(set(dims))))
        return [bounded, f"quantization not applied: {widths} dims can't be split into groups of {policy.group_size}"]
    return [bounded, f"quantization pending: begins at {policy.start} tokens"]


def _quantized(cache: QuantizedKVCache, policy: CachePolicy) -> list[str]:
    other = policy.bits is not None and cache.group_size != policy.group_size
    return [f"groups of {cache.group_size}, as {policy.group_size} don't divide a head" if other else ""]


def _sliding(cache: SlidingCache, policy: CachePolicy) -> list[str]:
    requested = policy.max_size is not None and cache.window == policy.max_size
    bound = "max_kv_size" if requested else "the model's own chunk" if cache.kind == "chunked" else "the model's window"
    packed = "quantization not applied: sliding window" if policy.bits is not None else ""
    return [f"bounded by {bound}", packed]


def _recurrent(cache: LayerCache, policy: CachePolicy) -> list[str]:
    fixed = "of fixed size" if policy.bits is None else "quantization not applied: recurrent state of fixed size"
    return [fixed, "max_kv_size not applied: nothing grows" if policy.max_size else ""]


REASONS: tuple[tuple[Any, Callable[[Any, CachePolicy], list[str]]], ...] = (
    (QuantizedKVCache, _quantized),
    (KVCache, _full),
    (SlidingCache, _sliding),
    (RecurrentCache, _recurrent),
)
