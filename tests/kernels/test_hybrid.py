"""Mamba 2 layers, and MLPs and attention that are layers alone, as one operation: numbers and states of the parts."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, numbers
from test_block import DIM, QUANTIZED, Adapted, filled
from test_stack import agree, spoken

from mlxlm import kernels
from mlxlm.decoder import Backbone
from mlxlm.kernels import ops
from mlxlm.layers import MLP, Attention, GatedMLP, GroupedGatedNorm, Mamba2, MixerOnly, PreNorm, RMSNorm

NUMBERS = ("A_log", "D", "dt_bias")  # in float32 whatever the weights are


def mamba(heads=4, head_dim=16, groups=2, state=24, width=4, **settings) -> Mamba2:
    return Mamba2(DIM, heads, head_dim, groups=groups, state=state, conv=width, eps=1e-5, **settings)


def made(layers, dtype=mx.float32, quantized=None) -> Any:
    """A backbone of these layers, each with random weights."""
    for i, layer in enumerate(layers):
        filled(layer, i, dtype)
        mixer = layer.mixer if isinstance(layer, MixerOnly) else layer.self_attn
        if isinstance(mixer, Mamba2):
            mixer.update({name: mixer[name].astype(mx.float32) for name in NUMBERS})
    backbone = Backbone(20, DIM, layers, RMSNorm(DIM, 1e-5))
    if quantized:
        nn.quantize(backbone, **quantized,
                    class_predicate=lambda _, m: isinstance(m, nn.Linear) and m.weight.shape[-1] % 64 == 0)
    kernels.install(backbone)
    mx.eval(backbone.parameters())
    return backbone


def norm() -> RMSNorm:
    return RMSNorm(DIM, 1e-6)


def hybrid(dtype=mx.float32, quantized=None, **settings) -> Any:
    attention = Attention(DIM, 4, 2, 32)
    mlp, gated = MLP(DIM, 192, act=ops.relu2, bias=True), GatedMLP(DIM, 192)
    mixers = [mamba(**settings), mlp, attention, mamba(**settings), gated]
    return made([MixerOnly(mixer, norm()) for mixer in mixers], dtype, quantized)


@given(
    dtype=st.sampled_from(list(DTYPES.values())), quantized=st.sampled_from(QUANTIZED),
    sizes=st.sampled_from(({}, {"heads": 6, "head_dim": 5, "groups": 3, "state": 7}, {"groups": 1, "width": 2},
                           {"heads": 2, "head_dim": 33, "state": 33, "width": 5}, {"width": 3, "state": 16})),
    bias=st.booleans(), conv_bias=st.booleans(), normed=st.booleans(),
    dt_limit=st.sampled_from(((0.0, float("inf")), (0.3, 0.9))), batch=st.sampled_from((1, 2)),
)
def test_any_mamba(dtype, quantized, sizes, bias, conv_bias, normed, dt_limit, batch):
    parts = {"norm": GroupedGatedNorm if normed else None, "bias": bias, "conv_bias": conv_bias, "dt_limit": dt_limit}
    backbone = made([MixerOnly(mamba(**sizes, **parts), norm())], dtype, quantized)
    agree(backbone, (9, 1, 1, 3, 2, 1), dtype, batch=batch)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_a_hybrid_runs_at_once(dtype, counted):
    agree(hybrid(dtype, {"group_size": 64, "bits": 8}), (9, 1, 3, 1), dtype)
    assert counted.layers == 15


def test_before_there_is_a_state_the_parts_do_the_work(counted):
    agree(hybrid(), (1, 1, 1))
    assert counted.layers == 10


def test_padding_is_left_to_the_parts(counted):
    """Rows padded to 5 tokens: the first passes have padding of their own, later ones don't."""
    agree(hybrid(), (3, 1, 2, 1, 1, 4), padding=[5, 0], batch=2)
    assert counted.layers == 15


def adapt(backbone):
    backbone.layers[0].mixer.in_proj = Adapted(backbone.layers[0].mixer.in_proj)


class Halved(Mamba2):
    def __call__(self, x, cache, step):
        return super().__call__(x, cache, step) / 2


def subclass(backbone):
    backbone.layers[0].mixer.__class__ = Halved


def other_act(backbone):
    backbone.layers[0].mixer._act = ops.gelu


@pytest.mark.parametrize("change", [adapt, subclass, other_act])
def test_a_mixer_of_another_kind_does_its_own_work(change, counted):
    backbone = hybrid()
    change(backbone)
    agree(backbone, (9, 1, 1))
    assert counted.layers == 8


def test_a_changed_number_is_seen(counted):
    backbone = hybrid()
    spoken(backbone, (5, 1))
    backbone.layers[3].mixer.A_log = backbone.layers[3].mixer.A_log + 1
    agree(backbone, (5, 1, 1))
    assert counted.layers == 15


def test_in_a_block_with_an_mlp(counted):
    agree(made([PreNorm(mamba(), MLP(DIM, 192, act=ops.silu), norm)]), (5, 1, 1))
    assert counted.layers == 2


def test_a_copied_state_goes_its_own_way():
    backbone = hybrid()
    _, state = spoken(backbone, (9, 1))
    other = state.copy()
    kept = [numbers(a) for a in other.arrays]
    spoken(backbone, (1, 1), state=state)
    for a, b in zip(other.arrays, kept, strict=True):
        np.testing.assert_array_equal(numbers(a), b)
    assert not np.array_equal(numbers(state[0].arrays[1]), kept[1])


def test_numbers_that_are_none_are_carried():
    backbone = hybrid()
    _, state = spoken(backbone, (3,))
    state[0].arrays[1] = mx.full(state[0].arrays[1].shape, float("nan"))
    outs, _ = spoken(backbone, (1,), state=state)
    assert np.isnan(numbers(outs[0])).all()
