"""Whole blocks as one operation: the numbers and the caches of the parts they are made of, and when they step aside."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, numbers
from mlx.utils import tree_flatten

from mlxlm import kernels
from mlxlm.cache import KVCache, State
from mlxlm.decoder import Step
from mlxlm.layers import (
    Attention,
    BareRMSNorm,
    GatedMLP,
    PreNorm,
    RMSNorm,
    Sandwich,
    Softcapped,
    UnitOffsetRMSNorm,
    attend,
    fused,
    geglu,
    make_rope,
    swiglu,
)

DIM, HEADS, KV_HEADS, HEAD_DIM = 64, 4, 2, 32


def filled(module: nn.Module, seed: int, dtype: mx.Dtype) -> Any:
    """Random weights everywhere, biases and norms included."""
    rng = np.random.default_rng(seed)
    weights: Any = tree_flatten(module.parameters())
    flat = [(name, rng.standard_normal(w.shape).astype(np.float32) * 0.3) for name, w in weights]
    module.load_weights([(name, mx.array(w).astype(dtype)) for name, w in flat])
    return module


def make_block(kind, *, dtype=mx.float32, quantized=None, head_norms=False, bias=False, rope="half", window=None,
               sinks=False, glu=swiglu, cap=None, seed=0) -> Any:
    norm = {PreNorm: RMSNorm, Sandwich: UnitOffsetRMSNorm}[kind]
    turn = None if rope is None else make_rope(
        HEAD_DIM if rope != "part" else 16, {"rope_theta": 100.0}, max_positions=512, interleaved=rope == "pairs")
    attention = Attention(
        DIM, HEADS, KV_HEADS, HEAD_DIM, rope=turn, window=window, bias=bias, sinks=sinks,
        q_norm=norm(HEAD_DIM, 1e-5) if head_norms else None, k_norm=norm(HEAD_DIM, 1e-5) if head_norms else None,
        attend=attend if cap is None else Softcapped(cap))
    block = filled(kind(attention, GatedMLP(DIM, 192, glu=glu, bias=bias), lambda: norm(DIM, 1e-6)), seed, dtype)
    if quantized:
        nn.quantize(block, **quantized)
    kernels.install(block)
    return block


def spoken(block: Any, lengths, dtype, padding=None, most=fused.MOST, batch=2):
    """What the block makes of several passes in turn, and its cache's keys and values."""
    rng = np.random.default_rng(1)
    state = State([block.make_cache()], padding)
    outs, before = [], fused.MOST
    fused.MOST = most
    try:
        for length in lengths:
            x = mx.array(rng.standard_normal((batch, length, DIM)).astype(np.float32)).astype(dtype)
            outs.append(block(x, state[0], Step(length, state)))
            state.offset += length
            mx.eval(outs[-1], state.arrays)
    finally:
        fused.MOST = before
    return outs, state[0].update_and_fetch(*(mx.zeros((batch, KV_HEADS, 1, HEAD_DIM), dtype),) * 2)


def agree(block, lengths, dtype, padding=None):
    got, kept = spoken(block, lengths, dtype, padding)
    want, wanted = spoken(block, lengths, dtype, padding, most=0)
    # Half precision rounds at other places than the parts do: a few of its units, after five layers of them.
    tolerance = {mx.float32: 3e-5, mx.float16: 1e-2, mx.bfloat16: 6e-2}[dtype]
    for a, b in zip((*got, *kept), (*want, *wanted), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=0, atol=tolerance * abs(numbers(b)).max())


QUANTIZED = (None, {"group_size": 32, "bits": 4}, {"group_size": 64, "bits": 8}, {"mode": "mxfp4"})


@given(
    kind=st.sampled_from((PreNorm, Sandwich)), dtype=st.sampled_from(list(DTYPES.values())),
    quantized=st.sampled_from(QUANTIZED), head_norms=st.booleans(), bias=st.booleans(),
    rope=st.sampled_from((None, "half", "pairs", "part")), window=st.sampled_from((None, 7)), sinks=st.booleans(),
    glu=st.sampled_from((swiglu, geglu)), cap=st.sampled_from((None, 3.0)), padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_block(kind, dtype, quantized, head_norms, bias, rope, window, sinks, glu, cap, padded, seed):
    block = make_block(kind, dtype=dtype, quantized=quantized, head_norms=head_norms, bias=bias, rope=rope,
                       window=window, sinks=sinks, glu=glu, cap=cap, seed=seed)
    agree(block, (11, 1, 1, 3, 1, 4), dtype, [2, 0] if padded else None)


@pytest.mark.parametrize("kind", [PreNorm, Sandwich])
@pytest.mark.parametrize("quantized", QUANTIZED)
def test_it_runs_at_once(kind, quantized, counted):
    block = make_block(kind, quantized=quantized, head_norms=True, bias=True)
    spoken(block, (20, 1, 1, 2), mx.float32)
    assert counted.count == 4


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("padding", [None, [2, 0]])
@pytest.mark.parametrize("window", [None, 40])
def test_long_prompts(dtype, padding, window, counted):
    """As they come in parts: past a window, and past the end of a buffer."""
    block = make_block(PreNorm, dtype=dtype, quantized={"group_size": 32, "bits": 4}, window=window)
    agree(block, (70, 1, 260, 9, 1), dtype, padding)
    assert counted.count == 5


@pytest.mark.skipif(not fused.ops.native.takes_bytes(), reason="these kernels don't round activations")
def test_prompts_with_activations_in_8_bits(counted):
    exact, rounded = (make_block(PreNorm, quantized={"group_size": 32, "bits": 4}) for _ in range(2))
    for _, module in rounded.named_modules():
        if "scales" in module:
            module.int8 = True
    agree(rounded, (70, 1, 9, 3), mx.float32)
    assert counted.count == 4
    (want, _), (got, _) = (spoken(block, (20, 8), mx.float32)[0] for block in (exact, rounded))
    off = abs(numbers(want) - numbers(got)).max() / abs(numbers(want)).max()
    assert 0 < off < 0.05


def test_a_cache_has_the_dtype_of_what_goes_in(counted):
    """Narrow activations become wide ones by the norms' weights: the block steps aside, and leaves no narrow cache."""
    block = make_block(PreNorm)
    x = mx.random.normal((1, 12, DIM), key=mx.random.key(0)).astype(mx.bfloat16)
    (state, y), (_, want) = ((s, block(x.astype(d), s[0], Step(12, s)))
                             for s, d in ((State([block.make_cache()]), d) for d in (mx.bfloat16, mx.float32)))
    assert counted.count == 1 and {a.dtype for a in state.arrays} == {mx.float32} == {y.dtype}
    np.testing.assert_allclose(numbers(y), numbers(want), rtol=0, atol=1e-5 * abs(numbers(want)).max())


def test_a_wide_mlp_takes_some_rows_at_a_time(counted):
    block = make_block(PreNorm)
    block.mlp = filled(GatedMLP(DIM, 1 << 16), 3, mx.float32)
    kernels.install(block)
    agree(block, (70, 1, 65), mx.float32)
    assert counted.count == 3


def test_what_takes_too_much_memory_is_left_to_the_parts(counted):
    block = make_block(PreNorm)
    state = State([block.make_cache()])
    x = mx.zeros((1, 1 << 15, DIM))
    y = block(x, state[0], Step(x.shape[1], state))
    assert y.shape == x.shape and counted.count == 0  # not worked out


def test_past_the_end_of_a_buffer(counted):
    """The cache grows, and the rest goes on where it left off."""
    block = make_block(PreNorm)
    agree(block, (254, 1, 1, 1, 1), mx.float32)
    assert counted.count == 5


def test_a_changed_part_is_seen(counted):
    block = make_block(PreNorm, quantized={"group_size": 32, "bits": 4})
    spoken(block, (3, 1), mx.float32)
    other = make_block(PreNorm, quantized={"group_size": 32, "bits": 4}, seed=5)
    block.self_attn.k_proj = other.self_attn.k_proj
    block.mlp.down_proj.scales = block.mlp.down_proj.scales * 2
    agree(block, (3, 1), mx.float32)
    assert counted.count == 4


class Adapted(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def __call__(self, x):
        return self.linear(x) * 2


class Louder(GatedMLP):
    def __call__(self, x):
        return super().__call__(x) * 3


def adapt(block):
    block.self_attn.q_proj = Adapted(block.self_attn.q_proj)


def other_norm(block):
    block.input_layernorm = BareRMSNorm(DIM, 1e-5)


def with_clip(block):
    block.self_attn._clip = 0.5


@pytest.mark.parametrize("change", [adapt, other_norm, with_clip])
def test_parts_of_another_kind_do_their_own_work(change, counted):
    block = make_block(PreNorm)
    change(block)
    agree(block, (5, 1, 2), mx.float32)
    assert counted.count == 0


def test_an_mlp_of_another_kind_only_shortens_the_operation(counted):
    block = make_block(PreNorm)
    block.mlp = filled(Louder(DIM, 192), 3, mx.float32)
    agree(block, (5, 1, 2), mx.float32)
    assert counted.count == 3


def test_a_copied_cache_goes_its_own_way():
    """The operation writes into the buffers in place: not where a copy still needs them."""
    block = make_block(PreNorm)
    state = State([block.make_cache()])
    x = mx.random.normal((1, 3, DIM), key=mx.random.key(0))
    block(x, state[0], Step(3, state))
    state.offset = 3
    mx.eval(state.arrays)
    other = state.copy()
    one, two = x[:, :1], x[:, 1:2] * 5
    first = block(one, state[0], Step(1, state))
    mx.eval(first)
    second = block(two, other[0], Step(1, other))
    mx.eval(second)
    assert isinstance(state[0], KVCache)
    assert not np.array_equal(numbers(state[0].keys[:, :, 3]), numbers(other[0].keys[:, :, 3]))
    np.testing.assert_array_equal(numbers(state[0].keys[:, :, :3]), numbers(other[0].keys[:, :, :3]))


def address(a: mx.array) -> int:
    return np.array(a, copy=False).__array_interface__["data"][0]


def test_the_buffers_are_written_in_place():
    block = make_block(PreNorm)
    state = State([block.make_cache()])
    x = mx.random.normal((1, 3, DIM), key=mx.random.key(0))
    block(x, state[0], Step(3, state))
    mx.eval(state.arrays)
    before = [address(a) for a in state.arrays]
    for offset in (3, 4):
        state.offset = offset
        block(x[:, :1], state[0], Step(1, state))
        mx.eval(state.arrays)
    assert [address(a) for a in state.arrays] == before


def test_gradients_of_one_position():
    block = make_block(PreNorm, head_norms=True, bias=True)
    x = mx.random.normal((1, 1, DIM), key=mx.random.key(0))

    def loss(weights, x, most):
        block.update(weights)
        state = State([block.make_cache()])
        state[0].update_and_fetch(*(mx.ones((1, KV_HEADS, 2, HEAD_DIM)),) * 2)
        state.offset = 2
        before, fused.MOST = fused.MOST, most
        try:
            return (block(x, state[0], Step(1, state)) ** 2).sum()
        finally:
            fused.MOST = before

    weights = block.parameters()
    got, want = (mx.grad(loss, argnums=(0, 1))(weights, x, most) for most in (fused.MOST, 0))
    block.update(weights)
    got, want = (dict(tree_flatten(list(g))) for g in (got, want))
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(numbers(got[name]), numbers(want[name]), rtol=1e-3,
                                   atol=1e-4 * abs(numbers(want[name])).max() + 1e-6)
