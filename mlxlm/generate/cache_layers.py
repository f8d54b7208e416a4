"""One layer's memory as mlx-lm's classes hold it, and back: a row of a table for each kind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..cache import (
    ChunkedCache,
    CompositeCache,
    CrossCache,
    KVCache,
    NoCache,
    QuantizedKVCache,
    RecurrentCache,
    SlidingCache,
    State,
)
from ..errors import GenerationError, MLXLMError, SourceError


def slots(state: State) -> list[Any]:
    """The caches of the layers that have a memory: mlx-lm lists no others."""
    return [cache for cache in state if not isinstance(cache, NoCache)]


def saved(cache: Any) -> tuple[str, Any]:
    """(mlx-lm's class name, its state) of one layer's memory."""
    for kind, name, save in SAVERS:
        if type(cache) is kind:
            return name, save(cache)
    raise GenerationError("a cache of this kind can't be saved", where="cache", found=type(cache).__name__)


def _save_kv(cache: KVCache) -> list[Any]:
    if not cache.buffers:
        return [None, None, 0]
    keys, values = (b[..., : cache.offset, :] for b in cache.buffers)
    # An indexer has keys alone; mlx-lm writes zeros of their width for its values.
    return [keys, values if values.shape[3] else mx.zeros_like(keys), cache.offset]


def _save_quantized(cache: QuantizedKVCache) -> list[Any]:
    parts = [b[..., : cache.offset, :] for b in cache.buffers]
    return [parts[:3], parts[3:], cache.offset, cache.group_size, cache.bits]


def _save_sliding(cache: SlidingCache) -> list[Any]:
    """In the order of time, and no shorter than mlx-lm's rotating buffer is by now.

    Where our window has already forgotten the oldest token of that, zeros stand in its place: the next token
    overwrites it before any query sees it.
    """
    window = cache.window or 1
    if not cache.buffers:
        return [None, None, 0, cache.keep, window, 0]
    missing = min(cache.offset, window) - cache.stored
    parts = [b[..., : cache.stored, :] for b in cache.buffers]
    if missing > 0:
        front = [mx.zeros((*b.shape[:2], missing, b.shape[3]), b.dtype) for b in parts]
        cut = [mx.split(b, [cache.keep], axis=2) for b in parts]
        parts = [mx.concatenate([kept, zeros, rest], axis=2) for (kept, rest), zeros in zip(cut, front, strict=True)]
    return [*parts, cache.offset, cache.keep, window, cache.stored + max(missing, 0)]


def _save_chunked(cache: ChunkedCache) -> list[Any]:
    parts = [None, None] if not cache.buffers else [b[..., : cache.stored, :] for b in cache.buffers]
    return [*parts, cache.offset, cache.window, cache.offset - cache.stored]


def _save_recurrent(cache: RecurrentCache) -> list[Any]:
    return [[_turned(a, cache.layout.get(i)) for i, a in enumerate(cache.arrays)], None, None]


def _save_composite(cache: CompositeCache) -> list[Any]:
    return [[state, name] for name, state in map(saved, cache.parts)]


def _save_cross(cache: CrossCache) -> list[Any]:
    """Under our own name: mlx-lm has no layers that look at images."""
    return [cache.keys, cache.values, cache.seen, cache.offset]


def _turned(array: mx.array | None, axes: Sequence[int] | None) -> mx.array | None:
    return array if array is None or axes is None else mx.contiguous(array.transpose(*axes))


SAVERS: tuple[tuple[type, str, Callable[[Any], list[Any]]], ...] = (
    (KVCache, "KVCache", _save_kv),
    (QuantizedKVCache, "QuantizedKVCache", _save_quantized),
    (SlidingCache, "RotatingKVCache", _save_sliding),
    (ChunkedCache, "ChunkedKVCache", _save_chunked),
    (RecurrentCache, "ArraysCache", _save_recurrent),
    (CompositeCache, "CacheList", _save_composite),
    (CrossCache, "CrossCache", _save_cross),
)


def filled(state: State, classes: Sequence[str], states: Sequence[Any], model: Any, path: Path) -> State:
    """A new conversation's ``state`` with what a file says of each layer. Raises SourceError where they don't fit."""
    own = slots(state)
    if len(own) != len(classes):
        problem = "a prompt cache of another model"
        raise SourceError(problem, where=path, found=f"{len(classes)} caches", expected=f"{len(own)}")
    loaded = {}
    for i, (cache, name, content) in enumerate(zip(own, classes, states, strict=True)):
        try:
            loaded[id(cache)] = _loaded(cache, name, content)
        except (ValueError, TypeError, AttributeError, IndexError) as e:
            found = f"{name} with {type(e).__name__}: {e}"
            raise SourceError("not this model's cache, or damaged", where=f"{path}: {i}", found=found) from e
    new = State(loaded.get(id(cache), cache) for cache in state)
    _check_shapes(new, model, path)
    return new


def _loaded(own: Any, name: str, content: Any) -> Any:
    readers = {
        "KVCache": _load_kv,
        "ConcatenateKVCache": _load_kv,
        "RotatingKVCache": _load_rotating,
        "QuantizedKVCache": _load_quantized,
        "ChunkedKVCache": _load_chunked,
        "ArraysCache": _load_recurrent,
        "MambaCache": _load_recurrent,
        "CacheList": _load_composite,
        "CrossCache": _load_cross,
    }
    if name not in readers:
        raise ValueError(f"a cache of an unknown class, {name!r}")
    cache = readers[name](own, content)
    mx.eval(cache.state)
    return cache


def _tokens(arrays: Sequence[Any], count: int) -> tuple[mx.array, ...]:
    """The arrays (1, heads, S, dim), if they hold ``count`` tokens and more don't matter."""
    for a in arrays:
        if not isinstance(a, mx.array) or a.ndim != 4 or a.shape[0] != 1 or a.shape[2] < count:
            raise ValueError(f"no array of one row and {count} tokens")
    return tuple(a[..., :count, :] for a in arrays)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no number of tokens")
    return value


def _load_kv(own: Any, content: Any) -> KVCache | SlidingCache:
    keys, values, *rest = content
    offset = _count(rest[0]) if rest else keys.shape[2]
    if not isinstance(own, (KVCache, SlidingCache)):
        raise ValueError(f"keys and values, where the model has a {own.kind} cache")
    own.offset = offset
    own.buffers = _tokens((keys, values), offset) if offset else ()
    if isinstance(own, SlidingCache):
        own.stored = offset
    return own


def _load_quantized(own: Any, content: Any) -> QuantizedKVCache:
    keys, values, offset, group, bits = content
    if type(own) is not KVCache:
        raise ValueError(f"packed tokens, where the model has a {own.kind} cache")
    new = QuantizedKVCache(_count(group), _count(bits))
    new.offset = _count(offset)
    new.buffers = _tokens((*keys, *values), offset)
    for weight, scales in (new.buffers[:2], new.buffers[3:5]):
        if weight.shape[3] * 32 != scales.shape[3] * group * bits:
            raise ValueError(f"weights that are not {bits} bits in groups of {group}")
    return new


def _load_rotating(own: Any, content: Any) -> SlidingCache:
    keys, values, offset, keep, size, at = content
    offset, keep, size, at = map(_count, (offset, keep, size, at))
    if not isinstance(own, (KVCache, SlidingCache)) or not 0 <= keep < size:
        raise ValueError(f"a window of {size} with {keep} kept, where the model has a {own.kind} cache")
    new = SlidingCache(size, keep) if isinstance(own, KVCache) else own
    if offset == 0:
        return new
    stored = keys.shape[2] if at == keys.shape[2] or at < offset else at
    buffers = [_in_time(a, at, offset, keep) for a in _tokens((keys, values), stored)]
    new.offset, new.stored, new.buffers = offset, buffers[0].shape[2], tuple(buffers)
    new.kept = keep if new.stored < offset else 0
    if new.stored < min(offset, (new.window or 1) - 1) or new.stored > offset or new.keep != keep:
        raise ValueError(f"{new.stored} tokens of {offset} for a window of {new.window}")
    return new


def _in_time(array: mx.array, at: int, offset: int, keep: int) -> mx.array:
    """A rotating buffer, whose next token goes to column ``at``, in the order that the tokens came."""
    if at >= array.shape[2] or at >= offset:
        return array[..., : min(at, array.shape[2]), :]
    return mx.concatenate([array[..., :keep, :], array[..., at:, :], array[..., keep:at, :]], axis=2)


def _load_chunked(own: Any, content: Any) -> ChunkedCache:
    keys, values, offset, size, start = content
    offset, size, start = map(_count, (offset, size, start))
    if not isinstance(own, ChunkedCache) or size != own.window:
        raise ValueError(f"chunks of {size}, where the model has a {own.kind} cache of {own.window}")
    own.offset, own.stored = offset, offset - start
    own.buffers = _tokens((keys, values), own.stored) if offset else ()
    if own.stored < min(offset, size - 1):
        raise ValueError(f"{own.stored} tokens of {offset} for chunks of {size}")
    return own


def _load_recurrent(own: Any, content: Any) -> RecurrentCache:
    arrays = content[0] if len(content) == 3 and isinstance(content[0], list) else content
    if not isinstance(own, RecurrentCache) or len(arrays) != len(own.arrays):
        raise ValueError(f"{len(arrays)} arrays, where the model has a {own.kind} cache")
    own.arrays = [_turned(a, own.layout.get(i)) for i, a in enumerate(arrays)]
    return own


def _load_composite(own: Any, content: Any) -> CompositeCache:
    if not isinstance(own, CompositeCache) or len(own.parts) != len(content):
        raise ValueError(f"{len(content)} caches, where the model has a {own.kind} cache")
    own.parts = [_loaded(part, name, inner) for part, (inner, name) in zip(own.parts, content, strict=True)]
    return own


def _load_cross(own: Any, content: Any) -> CrossCache:
    keys, values, seen, offset = content
    if not isinstance(own, CrossCache):
        raise ValueError(f"images that layers look at, where the model has a {own.kind} cache")
    own.offset = _count(offset)
    if keys is not None:
        tiles = seen.shape[2]
        if seen.dtype != mx.bool_ or seen.shape[0] != 1 or keys.shape != values.shape or keys.shape[2] % tiles:
            raise ValueError(f"{keys.shape[2]} rows for {tiles} tiles")
        (own.keys, own.values), own.seen = _tokens((keys, values), keys.shape[2]), seen
    return own


def _check_shapes(state: State, model: Any, path: Path) -> None:
    """Every array must have the heads and dims that the model itself makes; a pass that is never evaluated tells."""
    fresh = model.make_cache()
    try:
        model(mx.zeros((1, 1), mx.int32), cache=fresh)
    except (ValueError, TypeError) as e:
        raise MLXLMError("the model can't be asked what its caches look like", where=path, found=str(e)) from e
    for i, (found, own) in enumerate(zip(state, fresh, strict=True)):
        _drop_values(found, own)
        pairs = zip(_shapes(found), _shapes(own), strict=False)
        if bad := [(a, b) for a, b in pairs if a != b]:
            problem = "a prompt cache of another model"
            raise SourceError(problem, where=f"{path}: layer {i}", found=bad[0][0], expected=bad[0][1])


def _drop_values(found: Any, own: Any) -> None:
    """Where the model itself stores no values, those of the file are zeros."""
    if isinstance(found, CompositeCache):
        for parts in zip(found.parts, own.parts, strict=True):
            _drop_values(*parts)
    elif type(found) is KVCache and found.buffers and own.buffers[1].shape[3] == 0:
        found.buffers = (found.buffers[0], found.buffers[1][..., :0])


def _shapes(cache: Any) -> list[tuple[int, ...]]:
    if isinstance(cache, CompositeCache):
        return [shape for part in cache.parts for shape in _shapes(part)]
    if isinstance(cache, QuantizedKVCache):
        dims = (b.shape for b in cache.buffers[1::3])
        return [(shape[1], shape[3] * cache.group_size) for shape in dims]
    if isinstance(cache, RecurrentCache):
        return [a.shape for a in cache.state]
    if isinstance(cache, CrossCache):  # which the model fills only where there are images
        return []
    return [(a.shape[1], a.shape[3]) for a in cache.state]
