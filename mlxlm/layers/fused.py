"""Whole blocks as one operation where our kernels are in force: what decoding costs is mostly the trips between them.

A backbone asks `stacks` for those of its layers that can run together, and a block asks `run`; each does its own work
where these decline: parts that are not the plain ones (a subclass, an adapter), a cache that packs, a recurrent layer's
or gradients of more than a few positions. Numbers are those of the parts, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import mlx.core as mx

from ..cache import KVCache, NoCache, RecurrentCache, SlidingCache
from ..kernels import ops
from .plan import Plan, plan_of

MOST = 1 << 20  # rows of activations for whole blocks; the kernels decline what would take too much memory
FEW = 8  # rows for what is one operation while decoding alone: chosen experts, recurrent layers


def _kernels(x: mx.array, step: Any) -> Any:
    """The kernels where they run such a pass as whole blocks, as far as x and the positions tell; else None."""
    brief = x.shape[0] * x.shape[1] <= MOST and isinstance(step.positions, int | mx.array)
    return ops.native if brief else None


def run(block: Any, x: mx.array, cache: Any, step: Any) -> tuple[mx.array, bool] | None:
    """(result, whether the MLP was in it) of a block with ``parts()``, or None where its own parts must do it."""
    kernels = _kernels(x, step)
    plan = None if kernels is None else plan_of(block)
    place = None if plan is None or not plan.attends else _place(plan, cache, x)
    if kernels is None or plan is None or place is None:
        return None
    freqs = None
    if plan.rope is not None:
        freqs, gain = plan.rope.frequencies(step.end)
        if gain != 1.0:
            return None
    mask = plan.mixer.mask(cache, step)
    done = kernels.block(plan.shape, x, plan.arrays(freqs, plan.own), *cache.buffers, *place, step.positions, mask)
    if done is None:
        return None
    _advance(cache, done[1:], x.shape[1])
    return done[0], plan.whole


class Stack:
    """Layers that follow one another, whole blocks that the kernels know, as one operation that holds their weights."""

    def __init__(self, kernels: Any, plans: Sequence[Plan]):
        self._kernels, self._plans = kernels, list(plans)
        self._few = not all(plan.attends and plan.whole for plan in plans)
        arrays = [plan.arrays(plan.rope.frequencies(1)[0] if plan.rope is not None else None) for plan in plans]
        self.native = kernels.make_stack([plan.stacked for plan in plans], arrays)

    def __len__(self) -> int:
        return len(self._plans)

    def run(self, x: mx.array, caches: Sequence[Any], step: Any) -> mx.array | None:
        """What the layers make of x, or None where they have to do it themselves."""
        length, places, memories = x.shape[1], [], []
        if self._few and x.shape[0] * length > FEW:
            return None
        for plan, cache in zip(self._plans, caches, strict=True):
            found = _attention_memory(plan, cache, x) if plan.attends else _memory(cache, step)
            if found is None:
                return None
            places.append(found[0])
            memories.append(found[1])
        masks = []
        if length > 1 or step.padding is not None:
            masks = [plan.mixer.mask(cache, step) if plan.attends else None
                     for plan, cache in zip(self._plans, caches, strict=True)]
        done = self._kernels.stack(self.native, x, memories, places, step.positions, masks)
        if done is None:
            return None
        for cache, memory in zip(caches, done[1], strict=True):
            _advance(cache, memory, length)
        return done[0]


class Stacks:
    """The layers of a backbone that can run together, by the first of each run of them.

    They are of no use once any of the weights has been replaced.
    """

    def __init__(self, kernels: Any, layers: Sequence[Any]):
        self._kernels, self.layers = kernels, list(layers)
        self._held: list[tuple[dict, str, Any]] = []
        self._kinds: set[Any] = set()
        self.found: dict[int, Stack] = {}
        plans = [*map(_whole, layers), None]
        first = 0
        for i, plan in enumerate(plans):
            if plan is None:
                self._keep(first, [p for p in plans[first:i] if p is not None])
                first = i + 1

    def __deepcopy__(self, memo) -> None:
        return None  # made anew for the copy's own layers

    def _keep(self, first: int, plans: list[Plan]) -> None:
        stack = Stack(self._kernels, plans) if plans else None
        for layer, plan in zip(self.layers[first:], plans, strict=False):
            self._held += [(layer, name, part) for name, part in layer.items()] + plan.held()
            self._kinds.add(type(layer))
        if stack is not None and stack.native is not None:
            self.found[first] = stack

    def holds(self, layers: Sequence[Any]) -> bool:
        """Whether these are still the layers, with the very weights that this was made for."""
        same = len(layers) == len(self.layers) and all(map(is_, layers, self.layers))
        same = same and all(kind.__call__ is kind.fused_call for kind in self._kinds)
        return same and self._kernels.unchanged(self._held)


def _whole(block: Any) -> Plan | None:
    """The plan of a block that is one operation from end to end, whatever the length of the context."""
    if type(block).__call__ is not getattr(type(block), "fused_call", None):
        return None
    plan = plan_of(block)
    if plan is None or plan.stacked is None:
        return None
    fixed = plan.rope is None or (not plan.rope.by_length and plan.rope.frequencies(1)[1] == 1.0)
    return plan if fixed else None


def stacks(backbone: Any, x: mx.array, step: Any) -> dict[int, Stack]:
    """The layers that may run together in this pass, by the first of each run of them."""
    kernels = _kernels(x, step)
    if kernels is None or step.shared:
        return {}
    made = backbone.__dict__.get("_stacks")
    if made is None or not made.holds(backbone.layers):
        made = backbone._stacks = Stacks(kernels, backbone.layers)
    return made.found


def _advance(cache: Any, memory: Sequence[mx.array], length: int) -> None:
    """The cache with ``length`` more tokens, which its new arrays hold."""
    if not memory:
        return
    if type(cache) is RecurrentCache:
        cache.arrays = list(memory)
        cache.advance(length)
        return
    cache.buffers = tuple(memory)
    cache.offset += length
    if type(cache) is SlidingCache:
        cache.stored += length


class _Like(NamedTuple):
    """What a cache has to know of tokens to make room for them."""

    shape: tuple[int, ...]
    dtype: mx.Dtype


def _place(plan: Plan, cache: Any, x: mx.array) -> tuple[int, int] | None:
    """(column of the first new token, first column that is seen) in buffers that have room for those of x."""
    slides = type(cache) is SlidingCache
    if (slides and cache.keep) or not (slides or type(cache) is KVCache):
        return None
    if cache.stored and cache.buffers[0].dtype != x.dtype:
        return None
    length = x.shape[1]
    if cache.stored + length > cache.capacity:
        cache.make_room([_Like((x.shape[0], heads, length, width), x.dtype) for heads, width in plan.stored])
    return cache.stored, cache._seen(cache.kept, cache.stored + length, length)[1] if slides else 0


def _attention_memory(plan: Plan, cache: Any, x: mx.array) -> tuple[tuple[int, int], Sequence[mx.array]] | None:
    """(place, keys and values) of a cache with room for x."""
    place = _place(plan, cache, x)
    return None if place is None else (place, cache.buffers)


def _memory(cache: Any, step: Any) -> tuple[tuple[int, int], Sequence[mx.array]] | None:
    """(no place, arrays) of what a layer without attention remembers, once there is something and no padding comes."""
    if type(cache) is NoCache:
        return (0, 0), ()
    if type(cache) is not RecurrentCache or step.padded or len(cache.state) < len(cache.arrays):
        return None
    return (0, 0), cache.state
