"""Whole blocks as one operation where our kernels are in force: what decoding costs is mostly the trips between them.

A block asks `run` first and does its own work where that declines: more than a few positions, parts that are not the
plain ones (a subclass, an adapter), a cache that packs or is out of room. Numbers are those of the parts, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..cache import KVCache, SlidingCache
from ..kernels import modules, ops
from .attention import Attention, attend
from .experts import Experts, ExpertsMLP, QuantizedSwitchLinear
from .mlp import GatedMLP, geglu, swiglu
from .norms import RMSNorm, UnitOffsetRMSNorm
from .rope import RoPE

MOST = 8  # rows of activations up to which the trips cost more than the work
_OFFSETS = {RMSNorm: 0.0, UnitOffsetRMSNorm: 1.0}
_GATES: dict[Any, str] = {swiglu: "silu", geglu: "gelu"}


class Plan:
    """What is known of a block before a call: which modules it was made for, and where their arrays are found.

    ``shape`` is None for parts that the kernels don't know.
    """

    def __init__(self, mixer: Any, mlp: Any, norms: Sequence[Any]):
        self._made_for: list[tuple[dict, str, Any]] = []
        self._arrays: list[tuple[dict, str]] = []
        self._parts = (mixer, mlp, *norms)
        self.with_mlp = False
        self.rope: RoPE | None = None
        self.shape = None if ops.native is None else self._shape(ops.native, mixer, mlp, norms)

    def __deepcopy__(self, memo) -> None:
        return None  # made anew for the copy's own modules

    def holds(self, parts: Sequence[Any]) -> bool:
        """Whether the block still has the modules that this was made for."""
        return all(a is b for a, b in zip(self._parts, parts, strict=True)) and all(
            parent.get(name) is child for parent, name, child in self._made_for
        )

    def arrays(self, freqs: mx.array | None) -> list[mx.array | None]:
        """The weights of this call, as they are now."""
        return [freqs if name == "freqs" else parent[name] for parent, name in self._arrays]

    def _shape(self, native: Any, mixer: Any, mlp: Any, norms: Sequence[Any]):
        if type(mixer) is not Attention or mixer._attend is not attend or mixer._clip is not None:
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
            mixer.head_dim, mixer.scale, [_norm(n) for n in head_norms], "sinks" in mixer,
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


def run(block: Any, parts: tuple, x: mx.array, cache: Any, step: Any) -> tuple[mx.array, bool] | None:
    """(result, whether the MLP was in it) of a block, or None where its own parts must do it.

    ``parts`` are the mixer, the MLP and the norms before and after the mixer, then before and after the MLP; those
    that the block doesn't have are None.
    """
    if ops.native is None or x.shape[0] * x.shape[1] > MOST:
        return None
    plan = block.__dict__.get("_plan")
    if plan is None or not plan.holds(parts):
        plan = block._plan = Plan(parts[0], parts[1], parts[2:])
    if plan.shape is None:
        return None
    place = _place(cache, x.shape[1])
    if place is None or not isinstance(step.positions, int | mx.array):
        return None
    freqs = None
    if plan.rope is not None:
        freqs, gain = plan.rope.frequencies(step.end)
        if gain != 1.0:
            return None
    mask = parts[0].mask(cache, step)
    done = ops.native.block(plan.shape, x, plan.arrays(freqs), *cache.buffers, *place, step.positions, mask)
    if done is None:
        return None
    cache.buffers = done[1:]
    cache.offset += x.shape[1]
    if type(cache) is SlidingCache:
        cache.stored += x.shape[1]
    return done[0], plan.with_mlp


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
    if type(module) is ExpertsMLP and module._act is nn.relu2:
        return module.fc1, module.fc2
    return ()


def _place(cache: Any, length: int) -> tuple[int, int] | None:
    """(column of the first new token, first column that is seen) where a cache's buffers have room as they are."""
    if type(cache) is KVCache:
        return (cache.offset, 0) if cache.offset + length <= cache.capacity else None
    if type(cache) is SlidingCache and not cache.keep and cache.stored + length <= cache.capacity:
        return cache.stored, cache._seen(cache.kept, cache.stored + length, length)[1]
    return None
