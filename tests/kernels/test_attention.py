"""Attention, for few and for many queries, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, attention, check, numbers, random

from mlxlm.kernels import ops

MASKS = (None, "causal", "boolean", "additive", "rows")


def make_mask(rng, kind, B, H, L, S):
    if kind in (None, "causal"):
        return kind, kind
    if kind == "additive":
        m = rng.standard_normal((1, H, L, S)).astype(np.float32)
        m[rng.random(m.shape) < 0.2] = -np.inf
        m[..., rng.integers(0, S)] = 0
    elif kind == "rows":
        m = np.arange(S) >= rng.integers(0, S, (B, 1, 1, 1))
    else:
        m = rng.random((L, S)) < 0.6
        m[:, rng.integers(0, S)] = True
    return mx.array(m), m


@given(
    B=st.integers(1, 2), heads=st.integers(1, 3), group=st.integers(1, 5), L=st.integers(1, 40),
    more=st.integers(0, 90), D=st.integers(1, 80), Dv=st.integers(1, 80), dtype=st.sampled_from(list(DTYPES.values())),
    kind=st.sampled_from(MASKS), sinks=st.booleans(),
)
def test_any_size(B, heads, group, L, more, D, Dv, dtype, kind, sinks):
    rng = np.random.default_rng(L * 97 + D)
    S, Hq = L + more, heads * group
    q, k = random(rng, (B, Hq, L, D), dtype), random(rng, (B, heads, S, D), dtype)
    v = random(rng, (B, heads, S, Dv), dtype)
    mask, as_numpy = make_mask(rng, kind, B, Hq, L, S)
    sink = random(rng, (Hq,)) if sinks else None
    y = ops.attention(q, k, v, scale=D**-0.5, mask=mask, sinks=sink)
    want = attention(numbers(q), numbers(k), numbers(v), D**-0.5, as_numpy, numbers(sink) if sinks else None)
    check(y, want, abs(numbers(v)).max() * (4 + D**0.5), dtype)


@pytest.mark.parametrize("L", [1, 2, 64])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_long_keys_in_a_cache(L, dtype):
    """Keys are a slice of a longer buffer, and enough to be shared out over threads."""
    rng = np.random.default_rng(0)
    q = random(rng, (1, L, 6, 64), dtype).swapaxes(1, 2)
    k, v = (random(rng, (1, 2, 1500, 64), dtype)[:, :, :1283] for _ in range(2))
    y = ops.attention(q, k, v, scale=0.3, mask="causal")
    check(y, attention(numbers(q), numbers(k), numbers(v), 0.3, "causal"), 20, dtype)


def test_result_is_laid_out_for_the_projection():
    """Heads moved behind positions make a contiguous array: its values must be where its strides say."""
    rng = np.random.default_rng(0)
    q, k, v = (random(rng, (2, 4, 21, 16)) for _ in range(3))
    y = ops.attention(q, k, v, scale=0.25)
    want = attention(numbers(q), numbers(k), numbers(v), 0.25)
    merged = y.transpose(0, 2, 1, 3).reshape(2, 21, 64)
    check(merged, want.transpose(0, 2, 1, 3).reshape(2, 21, 64), 10)
    check(y[1:, 2:, 3:] * 1, want[1:, 2:, 3:], 10)


@pytest.mark.parametrize("L", [1, 30])
def test_a_row_with_nothing_to_see(L):
    """MLX hides by the lowest number: such a row is the average of all values, as in the plain twin."""
    rng = np.random.default_rng(0)
    q, k, v = (random(rng, (1, 2, L, 8)) for _ in range(3))
    mask = np.ones((L, L), bool)
    mask[0] = False
    y = ops.attention(q, k, v, scale=1.0, mask=mx.array(mask))
    want = attention(numbers(q), numbers(k), numbers(v), 1.0, mask)
    want[:, :, 0] = numbers(v).mean(2)
    check(y, want, 10)


def test_unlike_arguments_fall_to_the_twin():
    rng = np.random.default_rng(0)
    q, k, v = random(rng, (1, 2, 9, 8)), random(rng, (1, 2, 5, 8)), random(rng, (1, 2, 5, 8))
    got = ops.attention(q, k, v, scale=1.0, mask="causal")
    want = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask="causal")
    assert mx.allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError):
        ops.attention(q, k, v[:, :1], scale=1.0, mask=mx.ones((3, 3)))
