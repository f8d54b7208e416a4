"""Blocks with chosen experts among a stack of blocks: the numbers of the parts, and when they step aside."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES
from test_block import DIM, filled
from test_stack import agree, spoken

from mlxlm import kernels
from mlxlm.decoder import Backbone
from mlxlm.kernels import ops
from mlxlm.layers import (
    MLP,
    Attention,
    Experts,
    ExpertsMLP,
    GatedMLP,
    GroupedGate,
    MixerOnly,
    PreNorm,
    RMSNorm,
    Sandwich,
    SparseMoE,
    UnitOffsetRMSNorm,
    geglu,
    swiglu,
    top_k,
)

EXPERTS, HIDDEN = 6, 96


def sparse(kind=PreNorm, *, glu=swiglu, bias=False, shared=None, gate=None, k=2, **route) -> Any:
    experts = (Experts(DIM, HIDDEN, EXPERTS, glu=glu, bias=bias) if glu is not ops.relu2
               else ExpertsMLP(DIM, HIDDEN, EXPERTS, act=glu, bias=bias))
    linear = nn.Linear(DIM, EXPERTS, bias=bias)
    moe = SparseMoE(gate or linear, experts, shared, route=None if gate else top_k(k, **route))
    norm = UnitOffsetRMSNorm if kind is Sandwich else RMSNorm
    if kind is MixerOnly:
        return MixerOnly(moe, norm(DIM, 1e-6))
    return kind(Attention(DIM, 4, 2, 32), moe, lambda: norm(DIM, 1e-6))


def moe_of(layer) -> Any:
    return layer.mixer if isinstance(layer, MixerOnly) else layer.mlp


def made(layers, dtype=mx.float32, **quantized) -> Any:
    for i, layer in enumerate(layers):
        filled(layer, i, dtype)
        gate = moe_of(layer).gate
        gate.weight = gate.weight * (10 if isinstance(gate, nn.Linear) else 1)  # choices that rounding can't turn
    nn.quantize(nn.Sequential(*layers), **(quantized or {"group_size": 32, "bits": 8}),
                class_predicate=lambda name, m: hasattr(m, "to_quantized") and not name.endswith("gate"))
    backbone = Backbone(20, DIM, layers, RMSNorm(DIM, 1e-5))
    kernels.install(backbone)
    mx.eval(backbone.parameters())
    return backbone


@given(
    kind=st.sampled_from((PreNorm, Sandwich)), glu=st.sampled_from((swiglu, geglu, ops.relu2)), bias=st.booleans(),
    softmax_first=st.booleans(), normalise=st.booleans(), k=st.integers(1, 3), batch=st.sampled_from((1, 2)),
)
def test_any_experts(kind, glu, bias, softmax_first, normalise, k, batch):
    block = sparse(kind, glu=glu, bias=bias, k=k, softmax_first=softmax_first, normalise=normalise)
    agree(made([block]), (9, 1, 1, 3, 1), batch=batch)


@given(
    kind=st.sampled_from((PreNorm, Sandwich, MixerOnly)), shared=st.sampled_from((None, swiglu, ops.relu2)),
    groups=st.sampled_from((1, 2, 3)), normalise=st.booleans(),
    scale=st.sampled_from((1.0, 2.5)),
)
def test_any_gate_of_groups(kind, shared, groups, normalise, scale):
    gate = GroupedGate(DIM, EXPERTS, 2, groups=groups, keep_groups=max(1, groups - 1), normalise=normalise, scale=scale)
    beside = MLP(DIM, 64, act=shared) if shared is ops.relu2 else GatedMLP(DIM, 64) if shared else None
    agree(made([sparse(kind, gate=gate, shared=beside), sparse()]), (9, 1, 3, 1))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", [PreNorm, MixerOnly])
def test_a_shared_expert_runs_with_them(kind, grouped, counted):
    gate = GroupedGate(DIM, EXPERTS, 2) if grouped else None
    agree(made([sparse(), sparse(kind, gate=gate, shared=GatedMLP(DIM, 32))]), (9, 1, 2))
    assert counted.layers == 4


@pytest.mark.parametrize("quantized", [{"group_size": 32, "bits": 4}, {"mode": "mxfp4"}])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_they_run_at_once(dtype, quantized, counted):
    backbone = made([sparse(), sparse(k=3)], dtype, **quantized)
    spoken(backbone, (9, 1, 3, 1), dtype)
    assert counted.layers == 6


def test_experts_that_are_a_layer_by_themselves(counted):
    agree(made([sparse(), sparse(MixerOnly, glu=ops.relu2)]), (9, 1, 2))
    assert counted.layers == 4


class Own(SparseMoE):
    def __call__(self, x):
        return super().__call__(x) * 2


def of_another_kind(layer):
    layer.mlp.__class__ = Own


class Louder(GatedMLP):
    def __call__(self, x):
        return super().__call__(x) * 2


def with_shared(layer):
    layer.mlp.shared_experts = filled(Louder(DIM, 32), 5, mx.float32)


def with_a_route(layer):
    layer.mlp._route = lambda logits: ops.route(logits, k=2, softmax="before", scale=2.0)


@pytest.mark.parametrize("change", [of_another_kind, with_shared, with_a_route])
def test_other_experts_do_their_own_work(change, counted):
    backbone = made([sparse(), sparse()])
    change(backbone.layers[0])
    agree(backbone, (9, 1, 1))
    assert counted.layers == 2
    assert counted.count == 4  # attention is one operation all the same: of both for the prompt, of the first after it


def change_router(moe):
    moe.gate = filled(nn.Linear(DIM, EXPERTS, bias=False), 9, mx.float32)


def change_scales(moe):
    moe.switch_mlp.down_proj.scales = moe.switch_mlp.down_proj.scales * 2


def change_experts(moe):
    moe.switch_mlp = moe_of(made([sparse()]).layers[0]).switch_mlp


@pytest.mark.parametrize("change", [change_router, change_scales, change_experts])
def test_a_change_is_seen(change):
    backbone = made([sparse(), sparse()])
    spoken(backbone, (5, 1))
    change(backbone.layers[1].mlp)
    kernels.install(backbone)
    agree(backbone, (5, 1, 1))
