"""Attention, for few and for many queries, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, ROUNDING, attention, check, dequantized, numbers, random

from mlxlm.kernels import ops, plain

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


def check_attention(y, q, k, v, scale, *how):
    """Against float64; for bfloat16 the weights of values may be rounded to it too, as MLX's own are."""
    dtype, (q, k, v) = q.dtype, (numbers(a) for a in (q, k, v))
    terms = abs(v).max() * (4 + q.shape[-1] ** 0.5) * 4e-6
    if dtype == mx.bfloat16:
        terms = terms + ROUNDING[dtype] * attention(q, k, abs(v), scale, *how)
    check(y, attention(q, k, v, scale, *how), terms, dtype, terms=1)


@given(
    B=st.integers(1, 2), heads=st.integers(1, 3), group=st.integers(1, 5), L=st.integers(1, 40),
    more=st.integers(0, 90), D=st.integers(1, 80), Dv=st.integers(1, 80), dtype=st.sampled_from(list(DTYPES.values())),
    kind=st.sampled_from(MASKS), sinks=st.booleans(), cap=st.sampled_from([None, 2.0, 50.0]),
)
def test_any_size(B, heads, group, L, more, D, Dv, dtype, kind, sinks, cap):
    rng = np.random.default_rng(L * 97 + D)
    S, Hq = L + more, heads * group
    q, k = random(rng, (B, Hq, L, D), dtype), random(rng, (B, heads, S, D), dtype)
    v = random(rng, (B, heads, S, Dv), dtype)
    mask, as_numpy = make_mask(rng, kind, B, Hq, L, S)
    sink = random(rng, (Hq,)) if sinks else None
    y = ops.attention(q, k, v, scale=D**-0.5, mask=mask, sinks=sink, cap=cap)
    check_attention(y, q, k, v, D**-0.5, as_numpy, None if sink is None else numbers(sink), cap)


@pytest.mark.parametrize("L", [1, 2, 64])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_long_keys_in_a_cache(L, dtype):
    """Keys are a slice of a longer buffer, and enough to be shared out over threads."""
    rng = np.random.default_rng(0)
    q = random(rng, (1, L, 6, 64), dtype).swapaxes(1, 2)
    k, v = (random(rng, (1, 2, 1500, 64), dtype)[:, :, :1283] for _ in range(2))
    y = ops.attention(q, k, v, scale=0.3, mask="causal")
    check_attention(y, q, k, v, 0.3, "causal")


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


@pytest.mark.parametrize("D, Dv", [(32, 32), (64, 64), (96, 48), (128, 128), (192, 128), (256, 256)])
@pytest.mark.parametrize("L", [1, 5, 70])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_head_dims_under_a_window(D, Dv, L, dtype):
    rng = np.random.default_rng(D + L)
    S = 520 + L
    q, k, v = random(rng, (1, 6, L, D), dtype), random(rng, (1, 2, S, D), dtype), random(rng, (1, 2, S, Dv), dtype)
    ago = np.arange(S - L, S)[:, None] - np.arange(S)
    window = (ago >= 0) & (ago < 300)
    y = ops.attention(q, k, v, scale=D**-0.5, mask=mx.array(window))
    check_attention(y, q, k, v, D**-0.5, window)


@pytest.mark.parametrize("L", [1, 40])
def test_not_a_number_goes_where_it_belongs(L):
    rng = np.random.default_rng(0)
    q, k, v = (random(rng, (1, 2, 300, 64), mx.bfloat16) for _ in range(3))
    q[:, 1, -1, 3], v[:, 0, 7, 5] = mx.nan, mx.inf
    y = numbers(ops.attention(q[:, :, -L:], k, v, scale=0.125, mask=None, cap=30.0))
    assert np.isnan(y[0, 1, -1]).all() and np.isinf(y[0, 0, :, 5]).all()
    assert np.isfinite(np.delete(y[0, 0], 5, axis=-1)).all() and np.isfinite(y[0, 1, :-1]).all()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("sinks", [False, True])
def test_the_plain_twin_with_a_cap(kind, sinks):
    rng = np.random.default_rng(3)
    q, k, v = (random(rng, shape) for shape in ((2, 6, 5, 16), (2, 2, 9, 16), (2, 2, 9, 24)))
    mask, as_numpy = make_mask(rng, kind, 2, 6, 5, 9)
    sink = random(rng, (6,)) if sinks else None
    want = attention(numbers(q), numbers(k), numbers(v), 1.0, as_numpy, numbers(sink) if sinks else None, 2.0)
    for attend in (plain.attention, ops.attention):
        check(attend(q, k, v, scale=1.0, mask=mask, sinks=sink, cap=2.0), want, 40)


def packed(rng, shape, dtype, group, bits):
    """(what the kernels take, a slice of longer buffers; the numbers in float64)."""
    B, heads, S, D = shape
    whole = mx.quantize(random(rng, (B, heads, S + 37, D), dtype), group_size=group, bits=bits)
    arrays = [a[:, :, 5 : S + 5] for a in whole]
    return arrays, dequantized(*arrays, group, bits)[0]


@given(
    B=st.integers(1, 2), heads=st.integers(1, 2), queries=st.integers(1, 5), L=st.integers(1, 40),
    more=st.integers(0, 200), D=st.sampled_from([1, 2, 3]), Dv=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([32, 64, 128]), bits=st.sampled_from([4, 8]), dtype=st.sampled_from(list(DTYPES.values())),
    kind=st.sampled_from(MASKS),
    sinks=st.booleans(), cap=st.sampled_from([None, 3.0]),
)
def test_packed_keys_and_values(B, heads, queries, L, more, D, Dv, group, bits, dtype, kind, sinks, cap):
    rng = np.random.default_rng(L * 97 + more)
    S, Hq, D, Dv = L + more, heads * queries, D * group, Dv * group
    q = random(rng, (B, Hq, L, D), dtype)
    (k, keys), (v, values) = (packed(rng, (B, heads, S, size), dtype, group, bits) for size in (D, Dv))
    mask, as_numpy = make_mask(rng, kind, B, Hq, L, S)
    sink = random(rng, (Hq,)) if sinks else None
    y = ops.native.packed_attention(q, k, v, group_size=group, bits=bits, scale=D**-0.5, mask=mask, sinks=sink, cap=cap)
    want = attention(numbers(q), keys, values, D**-0.5, as_numpy, numbers(sink) if sinks else None, cap)
    check(y, want, abs(values).max() * (4 + D**0.5), dtype)


def test_what_packed_attention_declines():
    rng = np.random.default_rng(0)
    q = random(rng, (1, 2, 1, 64))
    k, _ = packed(rng, (1, 2, 9, 64), mx.float32, 64, 4)
    attend = ops.native.packed_attention
    assert attend(q, k, k, group_size=64, bits=4, scale=1.0) is not None
    assert attend(q, k, k, group_size=64, bits=3, scale=1.0) is None
    assert attend(q.astype(mx.bfloat16), k, k, group_size=64, bits=4, scale=1.0) is None
    assert attend(q[..., :32], k, k, group_size=64, bits=4, scale=1.0) is None
    assert attend(q, k, k[:2], group_size=64, bits=4, scale=1.0) is None


def test_gradients_are_the_plain_ones():
    rng = np.random.default_rng(0)
    q, k, v = random(rng, (1, 4, 3, 64)), random(rng, (1, 2, 7, 64)), random(rng, (1, 2, 7, 64))
    arrays = [list(mx.quantize(t, group_size=32, bits=4)) for t in (k, v)]
    whole = [mx.dequantize(*t, group_size=32, bits=4) for t in arrays]
    capped = dict(scale=0.125, mask="causal", cap=2.0)
    want = mx.grad(lambda q, k, v: (plain.attention(q, k, v, **capped) ** 2).sum(), argnums=(0, 1, 2))(q, *whole)
    got = mx.grad(lambda q, k, v: (ops.attention(q, k, v, **capped) ** 2).sum(), argnums=(0, 1, 2))(q, *whole)
    for a, b in zip(got, want, strict=True):
        assert mx.allclose(a, b, atol=1e-5)
    few = mx.grad(lambda q: (ops.native.packed_attention(q, *arrays, group_size=32, bits=4, **capped) ** 2).sum())(q)
    assert mx.allclose(few, want[0], atol=1e-5)
