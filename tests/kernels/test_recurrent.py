"""The recurrences, native and by chunks, against their definitions in float64."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, numbers, random

from mlxlm.kernels import ops, plain, recurrent

WAYS = {
    "native": (recurrent.ssm_scan, recurrent.delta_scan, recurrent.selective_scan),
    "plain": (recurrent.plain_ssm_scan, recurrent.plain_delta_scan, recurrent.plain_selective_scan),
}


def ssm(x, dt, a, b, c, state):
    h, ys = state.copy(), []
    repeat = x.shape[2] // b.shape[2]
    b, c = np.repeat(b, repeat, 2), np.repeat(c, repeat, 2)
    for t in range(x.shape[1]):
        h = np.exp(dt[:, t] * a)[..., None, None] * h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        ys.append((h * c[:, t, :, None]).sum(-1))
    return np.stack(ys, 1), h


def selective(x, dt, a, b, c, state):
    h, ys = state.copy(), []
    for t in range(x.shape[1]):
        h = np.exp(dt[:, t, :, None] * a) * h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
        ys.append((h * c[:, t, None]).sum(-1))
    return np.stack(ys, 1), h


def delta(q, k, v, g, beta, state):
    s, ys = state.copy(), []
    for t in range(q.shape[1]):
        s = np.exp(g[:, t])[..., None, None] * s
        said = np.einsum("bhkv,bhk->bhv", s, k[:, t])
        s = s + k[:, t, ..., None] * (beta[:, t, :, None] * (v[:, t] - said))[:, :, None]
        ys.append(np.einsum("bhkv,bhk->bhv", s, q[:, t]))
    return np.stack(ys, 1), s


def ssm_inputs(rng, B, L, H, G, P, N, dtype=mx.float32):
    x, b, c = (random(rng, s, dtype) for s in ((B, L, H, P), (B, L, G, N), (B, L, G, N)))
    dt = mx.array(rng.uniform(0, 0.5, (B, L, H)).astype(np.float32))
    return x, dt, mx.array(-rng.uniform(0.1, 4, H).astype(np.float32)), b, c, random(rng, (B, H, P, N))


def delta_inputs(rng, B, L, H, K, V, dtype=mx.float32):
    q, k = (random(rng, (B, L, H, K)) for _ in range(2))
    k = k / mx.sqrt((k * k).sum(-1, keepdims=True))
    g, beta = (mx.array(rng.uniform(*r, (B, L, H)).astype(np.float32)) for r in ((-1, 0), (0, 1)))
    return q.astype(dtype), k.astype(dtype), random(rng, (B, L, H, V), dtype), g, beta, random(rng, (B, H, K, V))


def selective_inputs(rng, B, L, C, N, dtype=mx.float32):
    x, b, c = (random(rng, s, dtype) for s in ((B, L, C), (B, L, N), (B, L, N)))
    dt = mx.array(rng.uniform(0, 0.5, (B, L, C)).astype(np.float32))
    return x, dt, mx.array(-rng.uniform(0.1, 9, (C, N)).astype(np.float32)), b, c, random(rng, (B, C, N))


def compare(got, inputs, definition, fresh):
    values = [numbers(t) for t in inputs[:-1]]
    first = numbers(inputs[-1]) * (0 if fresh else 1)
    for mine, want in zip(got, definition(*values, first), strict=True):
        check(mine, want, 1 + abs(want).max(), mx.float32, terms=2e-5)


@pytest.mark.parametrize("way", WAYS)
@given(
    B=st.integers(1, 2), L=st.sampled_from((1, 2, 7, 64, 65)), groups=st.integers(1, 2), repeat=st.integers(1, 3),
    P=st.integers(1, 20), N=st.integers(1, 40), dtype=st.sampled_from(list(DTYPES.values())), fresh=st.booleans(),
)
def test_ssm(way, B, L, groups, repeat, P, N, dtype, fresh):
    inputs = ssm_inputs(np.random.default_rng(L + N), B, L, groups * repeat, groups, P, N, dtype)
    compare(WAYS[way][0](*inputs[:-1], None if fresh else inputs[-1]), inputs, ssm, fresh)


@pytest.mark.parametrize("way", WAYS)
@given(
    B=st.integers(1, 2), L=st.sampled_from((1, 2, 7, 64, 65)), H=st.integers(1, 3), K=st.integers(1, 40),
    V=st.integers(1, 80), dtype=st.sampled_from(list(DTYPES.values())), fresh=st.booleans(),
)
def test_delta(way, B, L, H, K, V, dtype, fresh):
    inputs = delta_inputs(np.random.default_rng(L + V), B, L, H, K, V, dtype)
    compare(WAYS[way][1](*inputs[:-1], None if fresh else inputs[-1]), inputs, delta, fresh)


def test_in_parts_is_as_at_once():
    rng = np.random.default_rng(0)
    for scan, inputs in ((recurrent.ssm_scan, ssm_inputs(rng, 2, 20, 4, 2, 8, 16)),
                         (recurrent.delta_scan, delta_inputs(rng, 2, 20, 3, 16, 24))):
        whole, last = scan(*inputs)
        per_position = [t.ndim > 1 for t in inputs[:-1]]
        state, pieces = inputs[-1], []
        for cut in (slice(0, 13), slice(13, 14), slice(14, 20)):
            part = [t[:, cut] if long else t for t, long in zip(inputs[:-1], per_position, strict=True)]
            y, state = scan(*part, state)  # pyright: ignore[reportCallIssue]
            pieces.append(y)
        np.testing.assert_array_equal(numbers(mx.concatenate(pieces, axis=1)), numbers(whole))
        np.testing.assert_array_equal(numbers(state), numbers(last))


@pytest.mark.parametrize("kind", [0, 1])
def test_gradients_are_the_plain_ones(kind):
    rng = np.random.default_rng(0)
    inputs = ssm_inputs(rng, 1, 9, 4, 2, 8, 16) if kind == 0 else delta_inputs(rng, 1, 9, 3, 16, 24)

    def loss(scan):
        return lambda *t: sum((out**2).mean() for out in scan(*t))

    everything = list(range(len(inputs)))
    got, want = (mx.grad(loss(WAYS[way][kind]), argnums=everything)(*inputs) for way in WAYS)
    for a, b in zip(got, want, strict=True):
        check(a, numbers(b), abs(numbers(b)).max() + 1e-6, terms=1e-4)


@pytest.mark.parametrize("way", WAYS)
@given(
    B=st.integers(1, 2), L=st.sampled_from((1, 2, 7, 33)), C=st.integers(1, 90), N=st.integers(1, 20),
    dtype=st.sampled_from(list(DTYPES.values())), fresh=st.booleans(),
)
def test_selective_scan(way, B, L, C, N, dtype, fresh):
    rng = np.random.default_rng(L * 7 + C)
    inputs = selective_inputs(rng, B, L, C, N, dtype)
    compare(WAYS[way][2](*inputs[:-1], None if fresh else inputs[-1]), inputs, selective, fresh)


@given(
    B=st.integers(1, 3), L=st.integers(1, 40), C=st.integers(1, 70), width=st.integers(1, 5), biased=st.booleans(),
    dtype=st.sampled_from(list(DTYPES.values())), sliced=st.booleans(),
)
def test_causal_conv(B, L, C, width, biased, dtype, sliced):
    rng = np.random.default_rng(L * 7 + C)
    x = random(rng, (B, L + width - 1, 2 * C if sliced else C), dtype)[..., :C]
    weight = random(rng, (C, width, 1), dtype)
    bias = random(rng, (C,), dtype) if biased else None
    y = ops.causal_conv(x, weight, bias)
    xs, w = numbers(x), numbers(weight)[..., 0].T
    want = np.sum([xs[:, k : k + L] * w[k] for k in range(width)], axis=0) + (0 if bias is None else numbers(bias))
    check(y, want, 10, dtype)


def test_long_convolutions_are_shared_out():
    rng = np.random.default_rng(0)
    x, weight = random(rng, (2, 203, 300)), random(rng, (300, 4, 1))
    want = np.sum([numbers(x)[:, k : k + 200] * numbers(weight)[..., 0].T[k] for k in range(4)], axis=0)
    check(ops.causal_conv(x, weight, None), want, 10)


def test_gradients_of_a_convolution():
    rng = np.random.default_rng(0)
    x, weight, bias = random(rng, (1, 9, 5)), random(rng, (5, 3, 1)), random(rng, (5,))
    got, want = (mx.grad(lambda *a, f=f: f(*a).square().sum(), argnums=(0, 1, 2))(x, weight, bias)
                 for f in (ops.causal_conv, plain.causal_conv))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-4, atol=1e-4)
