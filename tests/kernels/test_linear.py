"""Matmul with float weights against float64."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, numbers, random

from mlxlm.kernels import ops

dtypes = st.sampled_from(list(DTYPES.values()))


@given(
    rows=st.integers(1, 50), columns=st.integers(1, 150), count=st.integers(1, 70), x_type=dtypes, w_type=dtypes,
    biased=st.booleans(), seed=st.integers(0, 9),
)
def test_any_size(rows, columns, count, x_type, w_type, biased, seed):
    rng = np.random.default_rng(seed)
    x, w = random(rng, (count, columns), x_type), random(rng, (rows, columns), w_type)
    bias = random(rng, (rows,), w_type) if biased else None
    want = numbers(x) @ numbers(w).T + (0 if bias is None else numbers(bias))
    expected = x_type if x_type == w_type else mx.float32
    check(ops.linear(x, w, bias), want, abs(numbers(x)) @ abs(numbers(w)).T + 1, expected)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_strides(count):
    rng = np.random.default_rng(0)
    big = random(rng, (70, 200))
    x = random(rng, (2, 96, count)).swapaxes(1, 2)
    for w in (big[:, 8:104], big[::3, :96], random(rng, (96, 31)).T):
        want = numbers(x) @ numbers(w).T
        check(ops.linear(x, w), want, abs(numbers(x)) @ abs(numbers(w)).T)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(
    ("count", "columns"), [(600, 1100), (270, 2050), (40, 1101), (1, 9001), (2, 8200), (3, 6001), (4, 4500)])
def test_more_than_a_block(count, columns, dtype):
    """Rows beyond a chunk, columns beyond a tile's depth, and few rows that don't stay in the first cache."""
    rng = np.random.default_rng(0)
    x, w = random(rng, (count, columns), dtype), random(rng, (31, columns), dtype)
    check(ops.linear(x, w), numbers(x) @ numbers(w).T, abs(numbers(x)) @ abs(numbers(w)).T, dtype)


def test_gradients_are_the_plain_ones():
    rng = np.random.default_rng(0)
    x, w, b = random(rng, (5, 33)), random(rng, (7, 33)), random(rng, (7,))
    gradients = mx.grad(lambda *a: (ops.linear(*a) ** 2).sum(), argnums=(0, 1, 2))(x, w, b)
    y = 2 * (numbers(x) @ numbers(w).T + numbers(b))
    for got, want in zip(gradients, (y @ numbers(w), y.T @ numbers(x), y.sum(0)), strict=True):
        check(got, want, 200)
