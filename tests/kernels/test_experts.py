"""Matmul with experts, quantized and dense, sorted and not, against float64."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, dequantized, numbers, random
from mlx.utils import tree_flatten

from mlxlm.kernels import ops
from mlxlm.layers import Experts, ExpertsMLP, geglu, swiglu
from mlxlm.layers.experts import known, weighted

dtypes = st.sampled_from(list(DTYPES.values()))


def expert_rows(x, picks, weights):
    """x (*batch, M, K) by weights[picks] (*pairs, N, K) in float64."""
    return x @ weights[picks].swapaxes(-1, -2)


def stack(rng, experts, rows, columns, group, bits, dtype):
    w, scales, biases = mx.quantize(random(rng, (experts, rows, columns)), group, bits)
    return w, scales.astype(dtype), biases.astype(dtype)


@given(
    experts=st.integers(1, 9), rows=st.integers(1, 30), groups=st.integers(1, 4), tokens=st.integers(1, 40),
    k=st.integers(1, 4), M=st.integers(1, 3), bits=st.sampled_from((2, 3, 4, 5, 6, 8)), group=st.sampled_from((32, 64)),
    x_type=dtypes, scale_type=dtypes, index_type=st.sampled_from((mx.int32, mx.uint32)),
)
def test_quantized(experts, rows, groups, tokens, k, M, bits, group, x_type, scale_type, index_type):
    rng = np.random.default_rng(experts * 100 + tokens)
    quantized = stack(rng, experts, rows, groups * group, group, bits, scale_type)
    x = random(rng, (tokens, 1, M, groups * group), x_type)
    picks = rng.integers(0, experts, (tokens, k))
    y = ops.gather_qmm(x, *quantized, rhs_indices=mx.array(picks).astype(index_type), group_size=group, bits=bits)
    weights, magnitude = dequantized(*quantized, group, bits)
    want, bound = (expert_rows(a, picks, b) for a, b in ((numbers(x), weights), (abs(numbers(x)), magnitude)))
    check(y, want, bound, x_type)


@given(
    experts=st.integers(1, 9), rows=st.integers(1, 30), columns=st.integers(1, 90), tokens=st.integers(1, 40),
    k=st.integers(1, 4), x_type=dtypes, w_type=dtypes, swapped=st.booleans(),
)
def test_dense(experts, rows, columns, tokens, k, x_type, w_type, swapped):
    rng = np.random.default_rng(experts * 100 + tokens)
    x = random(rng, (tokens, 1, 1, columns), x_type)
    w = random(rng, (experts, rows, columns), w_type).swapaxes(1, 2) if swapped else random(
        rng, (experts, columns, rows), w_type)
    picks = rng.integers(0, experts, (tokens, k))
    y = ops.gather_mm(x, w, rhs_indices=mx.array(picks))
    weights = numbers(w).swapaxes(1, 2)
    want, bound = (expert_rows(a, picks, b) for a, b in ((numbers(x), weights), (abs(numbers(x)), abs(weights))))
    check(y, want, bound, x_type if x_type == w_type else mx.float32)


def test_sorted_rows_are_used_where_they_lie():
    rng = np.random.default_rng(0)
    quantized = stack(rng, 5, 40, 128, 64, 4, mx.float32)
    weights, magnitude = dequantized(*quantized, 64, 4)
    picks = np.sort(rng.integers(0, 5, 100))
    x = random(rng, (100, 1, 128))
    y = ops.gather_qmm(x, *quantized, rhs_indices=mx.array(picks), group_size=64, bits=4, sorted_indices=True)
    check(y, expert_rows(numbers(x), picks, weights), expert_rows(abs(numbers(x)), picks, magnitude))


def test_each_row_of_a_block_and_one_block_for_all():
    rng = np.random.default_rng(0)
    w = random(rng, (4, 24, 16))
    picks = np.array([[3, 0], [1, 1]])
    for shape in ((7, 16), (1, 1, 7, 16), (2, 1, 7, 16), (2, 2, 7, 16), (3, 1, 1, 7, 16)):
        x = random(rng, shape)
        y = ops.gather_mm(x, w.swapaxes(1, 2), rhs_indices=mx.array(picks))
        check(y, expert_rows(numbers(x), picks, numbers(w)), 40)


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_microscaled(mode):
    rng = np.random.default_rng(0)
    w, scales, *_ = mx.quantize(random(rng, (4, 24, 64)), mode=mode)
    group, bits = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}[mode]
    weights, magnitude = dequantized(w, scales, None, group, bits, mode)
    for tokens in (1, 30):
        picks = rng.integers(0, 4, (tokens, 2))
        x = random(rng, (tokens, 1, 1, 64))
        y = ops.gather_qmm(x, w, scales, rhs_indices=mx.array(picks), group_size=group, bits=bits, mode=mode)
        check(y, expert_rows(numbers(x), picks, weights), expert_rows(abs(numbers(x)), picks, magnitude))


def test_other_arguments_fall_to_the_twin():
    rng = np.random.default_rng(0)
    x, w = random(rng, (6, 1, 16)), random(rng, (4, 24, 16))
    lhs, rhs = np.array([5, 0, 0]), np.array([1, 1, 3])
    y = ops.gather_mm(x, w.swapaxes(1, 2), lhs_indices=mx.array(lhs), rhs_indices=mx.array(rhs))
    check(y, expert_rows(numbers(x)[lhs], rhs, numbers(w)), 40)


def test_gradients_are_the_plain_ones():
    rng = np.random.default_rng(0)
    x, w = random(rng, (3, 1, 1, 16)), random(rng, (4, 24, 16))
    picks = mx.array([[0, 3], [2, 2], [1, 0]])
    got = mx.grad(lambda x: (ops.gather_mm(x, w.swapaxes(1, 2), rhs_indices=picks) ** 2).sum())(x)
    y = expert_rows(numbers(x), np.array(picks), numbers(w))
    want = (2 * y @ numbers(w)[np.array(picks)]).sum(1, keepdims=True)
    check(got, want, 200)


class Weighted:
    """Layers of experts with random weights, and what they make of rows in plain steps."""

    def __init__(self, kind, glu, bias, quantized, dtype, seed):
        self.layer = Experts(64, 96, 7, glu=glu, bias=bias) if kind is Experts else ExpertsMLP(
            64, 96, 7, act=nn.relu2, bias=bias)
        rng = np.random.default_rng(seed)
        weights: Any = tree_flatten(self.layer.parameters())
        self.layer.load_weights([(name, random(rng, w.shape, dtype, 0.3)) for name, w in weights])
        if quantized:
            nn.quantize(self.layer, **quantized)


@given(
    kind=st.sampled_from((Experts, ExpertsMLP)), glu=st.sampled_from((swiglu, geglu)), bias=st.booleans(),
    quantized=st.sampled_from((None, {"group_size": 32, "bits": 4}, {"group_size": 32, "bits": 3}, {"mode": "mxfp4"})),
    dtype=st.sampled_from(list(DTYPES.values())), weight_type=st.sampled_from((mx.float32, mx.bfloat16)),
    shape=st.sampled_from(((1, 1), (2, 3), (8,), (3, 7))), k=st.integers(1, 5), seed=st.integers(0, 99),
)
def test_a_step_of_the_chosen_experts(kind, glu, bias, quantized, dtype, weight_type, shape, k, seed):
    layer = Weighted(kind, glu, bias, quantized, dtype, seed).layer
    rng = np.random.default_rng(seed)
    x, picks = random(rng, (*shape, 64), dtype), mx.array(rng.integers(0, 7, (*shape, k)))
    weights = mx.array(rng.random((*shape, k), np.float32)).astype(weight_type)
    got = weighted(layer, x, picks, weights)
    want = (layer(x, picks).astype(mx.float32) * weights.astype(mx.float32)[..., None]).sum(-2)
    assert got.dtype == dtype
    tolerance = {mx.float32: 2e-5, mx.float16: 5e-3, mx.bfloat16: 4e-2}[dtype]
    np.testing.assert_allclose(numbers(got), numbers(want), rtol=0, atol=tolerance * abs(numbers(want)).max())


@pytest.mark.parametrize("kind", [Experts, ExpertsMLP])
def test_the_step_runs_and_has_gradients(kind):
    layer = Weighted(kind, swiglu, True, {"group_size": 32, "bits": 4}, mx.float32, 0).layer
    rng = np.random.default_rng(0)
    x, picks, weights = random(rng, (2, 64)), mx.array(rng.integers(0, 7, (2, 3))), random(rng, (2, 3))
    native: Any = ops.native
    given = [(m.mode, m.group_size, m.bits, True, False) for m in known(layer)[1]]
    arrays = [m[n] for m in known(layer)[1] for n in ("weight", "scales", "biases", "bias")]

    def step(x, weights):
        return native.experts_step(x, picks, weights, given, arrays, known(layer)[0]).square().sum()

    def parts(x, weights):
        return (layer(x, picks) * weights[..., None]).sum(-2).square().sum()

    got, want = (mx.grad(f, argnums=(0, 1))(x, weights) for f in (step, parts))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-3, atol=1e-4 * abs(numbers(b)).max())


def test_arrays_that_do_not_belong_together_are_declined():
    layer = Weighted(Experts, swiglu, False, {"group_size": 32, "bits": 4}, mx.float32, 0).layer
    given = [(m.mode, m.group_size, m.bits, False, False) for m in known(layer)[1]]
    arrays = [m[n] for m in known(layer)[1] for n in ("weight", "scales", "biases")]
    x, picks, weights = mx.ones((2, 64)), mx.zeros((2, 3), mx.int32), mx.ones((2, 3))
    native: Any = ops.native
    step = native.experts_step
    assert step(x, picks, weights, given, arrays, "silu") is not None
    assert step(x[:, :32], picks, weights, given, arrays, "silu") is None
    assert step(x, picks[:1], weights, given, arrays, "silu") is None
    assert step(x, picks, weights, given, [*arrays[:6], *arrays[:3]], "silu") is None
    assert step(x, picks, weights, given, arrays[:-1], "silu") is None
