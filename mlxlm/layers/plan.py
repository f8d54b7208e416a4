"""What the kernels have to know of a block to run it as one operation: its sizes, and where its weights are found."""

from __future__ import annotations

from operator import is_
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels import modules, ops
from . import experts
from .attention import Attention, Softcapped, attend
from .mamba import GroupedGatedNorm, Mamba2
from .mlp import ACTS, GATES, MLP, GatedMLP
from .moe import GroupedGate, SparseMoE, TopK, pick_biased
from .norms import RMSNorm, UnitOffsetRMSNorm
from .rope import RoPE

OFFSETS = {RMSNorm: 0.0, UnitOffsetRMSNorm: 1.0}
Parts = tuple[Any, ...]
"""A block's mixer, MLP, norms before and after the mixer, norms before and after the MLP; None for what isn't there."""

OWN = object()
"""Stands in `Parts` for work that only the block itself knows."""


class Plan:
    """What is known of a block before a call: which modules it was made for, and where their arrays are found.

    ``shape`` is None for parts that the kernels don't know; ``whole`` says that none are left to the block itself.
    ``stacked`` is what a stack takes, which knows more parts: None where some would be left even so.
    """

    def __init__(self, parts: Parts):
        self._made_for: list[tuple[dict, str, Any]] = []
        self._arrays: list[tuple[dict, str]] = []
        self._parts = parts
        self.mixer, self.mlp = parts[:2]
        self.rope: RoPE | None = None
        self.stored: tuple[tuple[int, int], ...] = ()  # heads and width of what a token leaves in a cache
        self.whole, self.own = False, 0  # how many of the arrays are those of ``shape``
        self.stacked = None
        self.shape = None if ops.native is None else self._shape(ops.native)

    def __deepcopy__(self, memo) -> None:
        return None  # made anew for the copy's own modules

    @property
    def attends(self) -> bool:
        return type(self.mixer) is Attention

    def holds(self, parts: Parts) -> bool:
        """Whether the block still has the modules that this was made for."""
        same = all(map(is_, self._parts, parts))
        return same and (ops.native is None or ops.native.unchanged(self._made_for))

    def arrays(self, freqs: mx.array | None, count: int | None = None) -> list[mx.array | None]:
        """The weights of this call, as they are now; only the first ``count`` if told."""
        return [freqs if name == "freqs" else parent[name] for parent, name in self._arrays[:count]]

    def held(self) -> list[tuple[dict, str, Any]]:
        """(module, name, what it has there) of all that a call depends on."""
        return self._made_for + [(parent, name, parent[name]) for parent, name in self._arrays if name != "freqs"]

    def _shape(self, native: Any) -> Any:
        """The kernels' description, its arrays in the order that they take them."""
        before, after, before_mlp, after_mlp = self._parts[2:]
        shape = native.BlockShape()
        if self.mixer is not None:
            put = {Attention: self._attention, Mamba2: self._mamba}.get(type(self.mixer))
            if put is None or not _are_norms(before, after) or not put(shape, before):
                return None
            self._add(after)
            shape.norms(_norm(before), _norm(after))
        self.whole = self.mlp is None or self._feed(shape, before_mlp, after_mlp)
        self.own = len(self._arrays)
        if self.whole:
            self.stacked = shape
        else:
            more = shape.copy()
            self.stacked = more if self._experts(more, before_mlp, after_mlp) else None
        return shape if self.whole or self.mixer is not None else None

    def _attention(self, shape: Any, before: Any) -> bool:
        mixer = self.mixer
        capped = type(mixer._attend) is Softcapped
        if mixer._clip is not None or not (capped or mixer._attend is attend):
            return False
        head_norms = mixer.get("q_norm"), mixer.get("k_norm")
        if (mixer._rope is not None and type(mixer._rope) is not RoPE) or not _are_norms(*head_norms):
            return False
        linears = self._linears(mixer, "q_proj", "k_proj", "v_proj", "o_proj")
        if linears is None:
            return False
        *qkv, out = linears
        heads = qkv[1]["weight"].shape[0] // mixer.head_dim
        self.stored = (heads, mixer.head_dim), (heads, qkv[2]["weight"].shape[0] // heads)
        self._made_for += [(mixer, "q_norm", head_norms[0]), (mixer, "k_norm", head_norms[1])]
        self._add(before, *qkv, *head_norms)
        self.rope = mixer._rope
        self._arrays += [(mixer, "sinks")] * ("sinks" in mixer) + [(mixer, "freqs")] * (self.rope is not None)
        self._add(out)
        shape.attention(
            qkv[0]["weight"].shape[0] // mixer.head_dim, heads, mixer.head_dim,
            mixer.scale, mixer._attend.cap if capped else 0.0, [_norm(n) for n in head_norms], "sinks" in mixer,
            None if self.rope is None else self.rope.native_shape, [_linear(m) for m in linears],
        )
        return True

    def _mamba(self, shape: Any, before: Any) -> bool:
        mixer = self.mixer
        norm, conv = mixer.get("norm"), mixer["conv1d"]
        if mixer._act is not ops.silu or type(norm) not in (type(None), GroupedGatedNorm):
            return False
        linears = self._linears(mixer, "in_proj", "out_proj")
        if linears is None or type(conv) not in (nn.Conv1d, modules.Conv1d):
            return False
        self._made_for += [(mixer, "norm", norm), (mixer, "conv1d", conv)]
        self._add(before, linears[0], conv)
        self._arrays += [(mixer, name) for name in ("dt_bias", "A_log", "D")]
        self._add(norm, linears[1])
        shape.mamba(
            mixer.heads, mixer.head_dim, mixer.groups, mixer.state_size, conv["weight"].shape[1], mixer.dt_limit,
            "bias" in conv, None if norm is None else (norm.eps, norm.groups), [_linear(m) for m in linears],
        )
        return True

    def _feed(self, shape: Any, before: Any, after: Any) -> bool:
        """Whether the second half is one that the kernels know, which the shape then has too."""
        act, linears = self._mlp(self.mlp)
        if linears is None or not _are_norms(before, after):
            return False
        self._add(before, *linears, after)
        shape.mlp(act, [_linear(m) for m in linears], _norm(before), _norm(after))
        return True

    def _mlp(self, mlp: Any) -> tuple[str | None, list[Any] | None]:
        """(the activation, the linears) of an MLP that the kernels know."""
        act = GATES.get(mlp._glu) if type(mlp) is GatedMLP else ACTS.get(mlp._act) if type(mlp) is MLP else None
        names = ("gate_proj", "up_proj", "down_proj")
        return act, None if act is None else self._linears(mlp, *(names if type(mlp) is GatedMLP else names[1:]))

    def _experts(self, shape: Any, before: Any, after: Any) -> bool:
        """The same for chosen experts, alone or beside an MLP."""
        moe = self.mlp
        if type(moe) is not SparseMoE or not _are_norms(before, after):
            return False
        found: Any = [moe.get(name) for name in moe._names]
        gate, module, shared = found
        act, stacks = experts.known(module)
        route = _route(moe)
        routers = [gate] if type(gate) is GroupedGate else self._linears(moe, moe._names[0])
        if act is None or route is None or routers is None:
            return False
        self._made_for += list(zip([moe] * 3, moe._names, found, strict=True))
        self._made_for += [(module, name, part) for name, part in module.items() if isinstance(part, nn.Module)]
        self._add(before)
        if shared is not None:
            beside, linears = self._mlp(shared)
            if linears is None:
                return False
            self._add(*linears)
            shape.mlp(beside, [_linear(m) for m in linears], None, None)
        self._add(*routers)
        scored = type(gate) is GroupedGate
        self._arrays += [(gate, "e_score_correction_bias")] * scored
        self._add(*stacks, after)
        given = [(None, 0, 0, False, False) if scored else _linear(gate), *map(experts.native_shape, stacks)]
        shape.experts(route, scored, act, given, _norm(before), _norm(after))
        return True

    def _linears(self, parent: Any, *names: str) -> list[Any] | None:
        """The linears of these names, if all of them are of kinds that the kernels know."""
        found: list[Any] = [parent[name] for name in names]
        if None in [_linear(linear) for linear in found]:
            return None
        self._made_for += [(parent, name, linear) for name, linear in zip(names, found, strict=True)]
        return found

    def _add(self, *parts: Any) -> None:
        names = ("weight", "scales", "biases", "bias")
        self._arrays += [(m, name) for m in parts if m is not None for name in names if name in m]


def plan_of(block: Any) -> Plan | None:
    """The block's plan, kept with it; None where its own parts must do the work."""
    parts = block.parts()
    if parts is None:
        return None
    plan = block.__dict__.get("_plan")
    if plan is None or not plan.holds(parts):
        plan = block._plan = Plan(parts)
    return None if plan.shape is None and plan.stacked is None else plan


def _linear(module: Any) -> tuple[str | None, int, int, bool, bool] | None:
    if type(module) is modules.QuantizedLinear:
        return module.mode, module.group_size, module.bits, "bias" in module, module.int8
    return (None, 0, 0, "bias" in module, False) if type(module) is modules.Linear else None


def _are_norms(*found: Any) -> bool:
    return all(n is None or type(n) in OFFSETS for n in found)


def _norm(module: Any) -> tuple[float, float] | None:
    return None if module is None else (module.eps, OFFSETS[type(module)])


def _route(moe: SparseMoE) -> tuple[Any, ...] | None:
    """A known route as the kernels take it: (k, softmax, groups, kept, best of a group, normalise, scale, eps)."""
    route, gate = moe._route, moe[moe._names[0]]
    if type(route) is TopK:
        return route.k, route.softmax, 1, 1, 1, route.normalise, 1.0, 0.0
    if route is not None or type(gate) is not GroupedGate or gate._pick.func is not pick_biased:
        return None
    known = {"groups": 1, "keep_groups": 1, "group_best": 2, "normalise": True, "scale": 1.0, "eps": 1e-20}
    k, *rest = ({"k": 0} | known | gate._pick.keywords).values()
    return k, "", *rest
