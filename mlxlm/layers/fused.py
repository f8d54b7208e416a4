"""Whole blocks as one operation where our kernels are in force: what decoding costs is mostly the trips between them.

A backbone asks `run_stack` for as many of its layers as it can have at once, and a block asks `run`; each does its own
work where these decline: more than a few positions, parts that are not the plain ones (a subclass, an adapter), a cache
that packs or is out of room. Numbers are those of the parts, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..cache import KVCache, SlidingCache
from ..kernels import modules, ops
from .attention import Attention, Softcapped, attend
from .experts import Experts, ExpertsMLP, QuantizedSwitchLinear
from .mlp import GatedMLP, geglu, swiglu
from .norms import RMSNorm, UnitOffsetRMSNorm
from .rope import RoPE

MOST = 8  # rows of activations up to which the trips cost more than the work
_OFFSETS = {RMSNorm: 0.0, UnitOffsetRMSNorm: 1.0}
_GATES: dict[Any, str] = {swiglu: "silu", geglu: "gelu"}

Parts = tuple[Any, ...]
"""A block's mixer, MLP, norms before and after the mixer, norms before and after the MLP; None for what isn't there."""


class Plan:
    """What is known of a block before a call: which modules it was made for, and where their arrays are found.

    ``shape`` is None for parts that the kernels don't know.
    """

    def __init__(self, mixer: Any, mlp: Any, norms: Sequence[Any]):
        self._made_for: list[tuple[dict, str, Any]] = []
        self._arrays: list[tuple[dict, str]] = []
        self._parts = (mixer, mlp, *norms)
        self.mixer, self.with_mlp = mixer, False
        self.rope: RoPE | None = None
        self.shape = None if ops.native is None else self._shape(ops.native, mixer, mlp, norms)

    def __deepcopy__(self, memo) -> None:
        return None  # made anew for the copy's own modules

    def holds(self, parts: Sequence[Any]) -> bool:
        """Whether the block still has the modules that this was made for."""
        same = all(map(is_, self._parts, parts))
        return same and (ops.native is None or ops.native.unchanged(self._made_for))

    def arrays(self, freqs: mx.array | None) -> list[mx.array | None]:
        """The weights of this call, as they are now."""
        return [freqs if name == "freqs" else parent[name] for parent, name in self._arrays]

    def held(self) -> list[tuple[dict, str, Any]]:
        """(module, name, what it has there) of all that a call depends on."""
        return self._made_for + [(parent, name, parent[name]) for parent, name in self._arrays if name != "freqs"]

    def _shape(self, native: Any, mixer: Any, mlp: Any, norms: Sequence[Any]):
        capped = type(mixer) is Attention and type(mixer._attend) is Softcapped
        if type(mixer) is not Attention or mixer._clip is not None or not (capped or mixer._attend is attend):
            return None
        if mixer._rope is not None and type(mixer._rope) is not RoPE:
            return None
        self.rope = mixer._rope
        self.with_mlp = type(mlp) is GatedMLP and mlp._glu in _GATES
        used = norms if self.with_mlp else norms[:2]
        head_norms = [mixer.get("q_norm"), mixer.get("k_norm")]
        if any(n is not None and type(n) not in _OFFSETS for n in (*used, *head_norms)):
            return None
        linears: list[Any] = [self._child(mixer, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
        if self.with_mlp:
            linears += [self._child(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")]
        given = [_linear(linear) for linear in linears]
        if None in given:
            return None
        self._place(mixer, linears, head_norms, used)
        return native.Block.make(
            linears[0]["weight"].shape[0] // mixer.head_dim, linears[1]["weight"].shape[0] // mixer.head_dim,
            mixer.head_dim, mixer.scale, mixer._attend.cap if capped else 0.0, [_norm(n) for n in head_norms],
            "sinks" in mixer,
            None if self.rope is None else self.rope.native_shape, given, [_norm(n) for n in used],
            _GATES[mlp._glu] if self.with_mlp else None,
        )

    def _child(self, parent: nn.Module, name: str) -> Any:
        self._made_for.append((parent, name, parent[name]))
        return parent[name]

    def _place(self, mixer, linears, head_norms, norms) -> None:
        """The arrays in the order that the kernels take them."""
        self._made_for += [(mixer, name, norm) for name, norm in zip(("q_norm", "k_norm"), head_norms, strict=True)]
        before, after, *rest = norms
        q, k, v, o, *feed = linears
        for module in (before, q, k, v, *head_norms):
            self._add(module)
        if "sinks" in mixer:
            self._arrays.append((mixer, "sinks"))
        if self.rope is not None:
            self._arrays.append((mixer, "freqs"))
        for module in (o, after, *rest[:1], *feed, *rest[1:]):
            self._add(module)

    def _add(self, module: Any) -> None:
        names = ("weight", "scales", "biases", "bias")
        self._arrays += [(module, name) for name in names if module is not None and name in module]


def _linear(module: Any) -> tuple[str | None, int, int, bool] | None:
    if type(module) is modules.QuantizedLinear:
        return module.mode, module.group_size, module.bits, "bias" in module
    return (None, 0, 0, "bias" in module) if type(module) is modules.Linear else None


def _norm(module: Any) -> tuple[float, float] | None:
    return None if module is None else (module.eps, _OFFSETS[type(module)])


def plan_of(block: Any) -> Plan | None:
    """The block's plan, kept with it; None where its own parts must do the work."""
    parts = block.parts()
    if parts is None:
        return None
    plan = block.__dict__.get("_plan")
    if plan is None or not plan.holds(parts):
        plan = block._plan = Plan(parts[0], parts[1], parts[2:])
    return None if plan.shape is None else plan


def _kernels(x: mx.array, step: Any) -> Any:
    """The kernels where they run such a pass as whole blocks, as far as x and the positions tell; else None."""
    brief = x.shape[0] * x.shape[1] <= MOST and isinstance(step.positions, int | mx.array)
    return ops.native if brief else None


def run(block: Any, x: mx.array, cache: Any, step: Any) -> tuple[mx.array, bool] | None:
    """(result, whether the MLP was in it) of a block with ``parts()``, or None where its own parts must do it."""
    kernels = _kernels(x, step)
    plan = None if kernels is None else plan_of(block)
    place = None if plan is None else _place(cache, x.shape[1])
    if kernels is None or plan is None or place is None:
        return None
    freqs = None
    if plan.rope is not None:
        freqs, gain = plan.rope.frequencies(step.end)
        if gain != 1.0:
            return None
    mask = plan.mixer.mask(cache, step)
    done = kernels.block(plan.shape, x, plan.arrays(freqs), *cache.buffers, *place, step.positions, mask)
    if done is None:
        return None
    _advance(cache, done[1:], x.shape[1])
    return done[0], plan.with_mlp


class Stack:
    """The first layers of a backbone, as many as are whole blocks that the kernels know, to be run as one operation.

    It holds their weights, and is of no use once any of them has been replaced.
    """

    def __init__(self, native: Any, layers: Sequence[Any]):
        self._kernels, self.layers = native, list(layers)
        plans: list[Plan] = []
        while len(plans) < len(layers) and (plan := _whole(layers[len(plans)])) is not None:
            plans.append(plan)
        self.mixers = [plan.mixer for plan in plans]
        self._kinds: set[Any] = {type(layer) for layer in self.layers[: len(plans)]}
        self._held: list[tuple[dict, str, Any]] = []
        self.native = self._make(plans) if plans else None

    def __deepcopy__(self, memo) -> None:
        return None  # made anew for the copy's own layers

    def _make(self, plans: Sequence[Plan]) -> Any:
        arrays = [plan.arrays(plan.rope.frequencies(1)[0] if plan.rope is not None else None) for plan in plans]
        for layer, plan in zip(self.layers, plans, strict=False):
            self._held += [(layer, name, part) for name, part in layer.items()] + plan.held()
        return self._kernels.make_stack([plan.shape for plan in plans], arrays)

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
    if plan is None or not plan.with_mlp:
        return None
    fixed = plan.rope is None or (not plan.rope.by_length and plan.rope.frequencies(1)[1] == 1.0)
    return plan if fixed else None


def run_stack(backbone: Any, x: mx.array, state: Sequence[Any], step: Any) -> tuple[mx.array, int]:
    """What the first layers of a backbone make of x, and how many these are: 0 where they can't be one operation."""
    length = x.shape[1]
    kernels = _kernels(x, step)
    if kernels is None or step.shared:
        return x, 0
    stack = backbone.__dict__.get("_stack")
    if stack is None or not stack.holds(backbone.layers):
        stack = backbone._stack = Stack(kernels, backbone.layers)
    if stack.native is None:
        return x, 0
    caches = state[: len(stack.mixers)]
    places = [_place(cache, length) for cache in caches]
    if None in places:
        return x, 0
    masks = []
    if length > 1 or step.padding is not None:
        masks = [mixer.mask(cache, step) for mixer, cache in zip(stack.mixers, caches, strict=True)]
    keys, values = [cache.buffers[0] for cache in caches], [cache.buffers[1] for cache in caches]
    done = kernels.stack(stack.native, x, keys, values, places, step.positions, masks)
    if done is None:
        return x, 0
    for cache, *buffers in zip(caches, *done[1:], strict=True):
        _advance(cache, tuple(buffers), length)
    return done[0], len(caches)


def _advance(cache: Any, buffers: tuple[mx.array, ...], length: int) -> None:
    """The cache with ``length`` more tokens, which its new buffers hold."""
    cache.buffers = buffers
    cache.offset += length
    if type(cache) is SlidingCache:
        cache.stored += length


def experts(module: Any, x: mx.array, picks: mx.array, weights: mx.array) -> mx.array:
    """What the picked experts of ``module`` make of x (..., dim), weighted by (..., k) and summed."""
    if ops.native is not None and picks.size <= MOST * picks.shape[-1]:
        linears = _expert_linears(module)
        if linears and all(type(linear) is QuantizedSwitchLinear for linear in linears):
            given = [(m.mode, m.group_size, m.bits, "bias" in m) for m in linears]
            arrays = [m[name] for m in linears for name in ("weight", "scales", "biases", "bias") if name in m]
            y = ops.native.experts_step(x, picks, weights, given, arrays, _GATES.get(getattr(module, "_glu", None), ""))
            if y is not None:
                return y
    return (module(x, picks) * weights[..., None]).sum(-2).astype(x.dtype)


def _expert_linears(module: Any) -> tuple[Any, ...]:
    """The linears of experts that the kernels know, gate and up first; none of others."""
    if type(module) is Experts and module._glu in _GATES:
        return module.gate_proj, module.up_proj, module.down_proj
    if type(module) is ExpertsMLP and module._act in (nn.relu2, ops.relu2):
        return module.fc1, module.fc2
    return ()


def _place(cache: Any, length: int) -> tuple[int, int] | None:
    """(column of the first new token, first column that is seen) where a cache's buffers have room as they are."""
    if type(cache) is KVCache:
        return (cache.offset, 0) if cache.offset + length <= cache.capacity else None
    if type(cache) is SlidingCache and not cache.keep and cache.stored + length <= cache.capacity:
        return cache.stored, cache._seen(cache.kept, cache.stored + length, length)[1]
    return None
