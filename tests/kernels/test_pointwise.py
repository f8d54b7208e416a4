"""Norms and gates against float64; what isn't finite stays visible in every operation."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, numbers, random

from mlxlm.kernels import ops, plain

dtypes = st.sampled_from(list(DTYPES.values()))
shapes = st.lists(st.integers(1, 6), min_size=0, max_size=3)


@given(shape=shapes, D=st.integers(1, 150), x_type=dtypes, w_type=st.none() | dtypes, swapped=st.booleans())
def test_rms_norm(shape, D, x_type, w_type, swapped):
    rng = np.random.default_rng(D)
    x = random(rng, (D, *shape[::-1]), x_type, 3).transpose() if swapped else random(rng, (*shape, D), x_type, 3)
    weight = None if w_type is None else random(rng, (D,), w_type)
    a = numbers(x)
    want = a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-3) * (1 if weight is None else numbers(weight))
    expected = x_type if w_type is None or w_type == x_type else mx.float32
    check(ops.rms_norm(x, weight, 1e-3), want, abs(want), expected, terms=2e-6)


@given(shape=shapes, D=st.integers(1, 150), x_type=dtypes, weighted=st.booleans(), biased=st.booleans())
def test_layer_norm(shape, D, x_type, weighted, biased):
    rng = np.random.default_rng(D)
    x = random(rng, (*shape, D), x_type, 3)
    weight, bias = (random(rng, (D,), x_type) if there else None for there in (weighted, biased))
    a = numbers(x)
    want = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-3)
    want = want * (1 if weight is None else numbers(weight)) + (0 if bias is None else numbers(bias))
    check(ops.layer_norm(x, weight, bias, 1e-3), want, 10 + abs(want), x_type)


@given(shape=shapes, D=st.integers(1, 150), dtype=dtypes, size=st.sampled_from((1, 30, 200)))
def test_swiglu(shape, D, dtype, size):
    rng = np.random.default_rng(D)
    gate, up = random(rng, (*shape, D), dtype, size), random(rng, (*shape, D), dtype)
    g = numbers(gate)
    with np.errstate(over="ignore"):
        want = g / (1 + np.exp(-g)) * numbers(up)
    check(ops.swiglu(gate, up), want, abs(want), dtype, terms=1e-6)


@given(shape=shapes, D=st.integers(1, 150), dtype=dtypes, size=st.sampled_from((1, 30, 200)))
def test_activations(shape, D, dtype, size):
    x = random(np.random.default_rng(D), (*shape, D), dtype, size)
    a = numbers(x)
    with np.errstate(over="ignore"):
        want = a / (1 + np.exp(-a))
    check(ops.silu(x), want, abs(want), dtype, terms=1e-6)
    x = x * 0.125  # whose squares float16 holds
    a = numbers(x)
    check(ops.relu2(x), np.maximum(a, 0) ** 2, a * a, dtype, terms=1e-6)
    slope = mx.grad(lambda x: ops.relu2(x).sum())(x.astype(mx.float32))
    check(slope, 2 * np.maximum(a, 0), abs(a))


@given(shape=shapes, D=st.integers(1, 150), dtype=dtypes, size=st.sampled_from((1, 30, 200)))
def test_geglu(shape, D, dtype, size):
    rng = np.random.default_rng(D)
    gate, up = random(rng, (*shape, D), dtype, size), random(rng, (*shape, D), dtype)
    g, u = numbers(gate), numbers(up)
    want = 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * u
    check(ops.geglu(gate, up), want, abs(u), dtype, terms=1e-6)
    assert mx.allclose(ops.geglu(gate, up), plain.geglu(gate, up), rtol=0.05, atol=0.05)


def integral(x):
    """The normal distribution's integral up to x."""
    return np.vectorize(math.erfc, otypes=[float])(-x / np.sqrt(2)) / 2


ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * integral(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(shape=shapes, D=st.integers(1, 150), dtype=dtypes, size=st.sampled_from((1, 8, 200)), swapped=st.booleans())
def test_activation(name, shape, D, dtype, size, swapped):
    x = random(np.random.default_rng(D), (*shape, D), dtype, size)
    x = x.transpose() if swapped else x
    with np.errstate(over="ignore"):
        want = ACTIVATIONS[name](numbers(x))
    want = want if dtype != mx.float16 else np.where(want > 65519, np.inf, want)
    finite = np.isfinite(want)
    y = getattr(ops, name)(x)
    check(mx.where(mx.array(finite), y, 0), np.where(finite, want, 0), abs(numbers(x)), dtype, terms=3e-7)
    assert mx.allclose(getattr(ops, name)(x), getattr(plain, name)(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_what_is_not_finite_and_its_gradient(name):
    run, want = getattr(ops, name), getattr(plain, name)
    y = numbers(run(mx.array([mx.nan, mx.inf, 1.0])))
    assert np.isnan(y[0]) and y[1] == np.inf and np.isfinite(y[2])
    x = mx.linspace(-4, 4, 37)
    got, expected = (numbers(mx.grad(lambda x, f=f: f(x).sum())(x)) for f in (run, want))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_large_arrays_are_shared_out():
    rng = np.random.default_rng(0)
    x = random(rng, (301, 577))
    a = numbers(x)
    check(ops.rms_norm(x, None, 0.0), a / np.sqrt((a * a).mean(-1, keepdims=True)), 4)
    check(ops.swiglu(x, x), a * a / (1 + np.exp(-a)), 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("count", [1, 20])
def test_what_is_not_finite_is_carried(bad, dtype, count):
    """One bad activation makes its own row of the result bad, and no other."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((count, 128)).astype(np.float32)
    values[0, 77] = bad
    x = mx.array(values).astype(dtype)
    w = random(rng, (24, 128), dtype)
    results = {
        "linear": ops.linear(x, w),
        "quantized": ops.quantized_matmul(x, *mx.quantize(random(rng, (24, 128)), 64, 4), group_size=64, bits=4),
        "microscaled": ops.quantized_matmul(x, *mx.quantize(random(rng, (24, 128)), mode="mxfp8"), mode="mxfp8"),
        "swiglu": ops.swiglu(x, x)[:, 77:78] if bad != -np.inf else ops.swiglu(mx.abs(x), x)[:, 77:78],
    }
    if bad != bad:
        results["rms_norm"] = ops.rms_norm(x, None, 1e-5)
    for name, y in results.items():
        finite = np.isfinite(numbers(y))
        assert not finite[0].any(), name
        assert finite[1:].all(), name


@pytest.mark.parametrize("L", [1, 30])
def test_attention_carries_nan(L):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, L, 16)).astype(np.float32) for _ in range(3))
    k[0, 0, 0, 3] = np.nan
    y = numbers(ops.attention(mx.array(q), mx.array(k), mx.array(v), scale=1.0))
    assert np.isnan(y[0, 0]).all() and np.isfinite(y[0, 1]).all()


@given(dtype=dtypes, rows=st.integers(1, 3), size=st.integers(1, 700), seed=st.integers(0, 99))
def test_argmax(dtype, rows, size, seed):
    rng = np.random.default_rng(seed)
    x = mx.array(rng.integers(-4, 5, (2, rows, size)).astype(np.float32)).astype(dtype)  # many equals
    got = ops.argmax(x)
    assert got.dtype == mx.uint32
    np.testing.assert_array_equal(np.array(got), numbers(x).argmax(-1))


def test_argmax_of_a_vocabulary():
    """In parts by several threads; and what isn't a number or is infinite is no reason to choose wrong."""
    x = np.random.default_rng(0).standard_normal((2, 262_147)).astype(np.float32)
    x[0, 200_001] = x[0, 100_000] = 9
    x[1, 7], x[1, 262_146] = np.nan, np.inf
    assert ops.argmax(mx.array(x)).tolist() == [100_000, 262_146]
    assert ops.argmax(mx.full((1, 300), -mx.inf)).tolist() == [0]
