"""Matmul of batches, with weights stored either way round, float and quantized, against float64."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, dequantized, numbers, random

from mlxlm.kernels import ops

dtypes = st.sampled_from(list(DTYPES.values()))
MODES = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
BATCHES = (((), ()), ((2,), ()), ((3,), (3,)), ((2, 1), (4,)), ((1, 3), (2, 3)), ((), (2,)), ((2, 5), (1, 1)))


def product(a, b):
    return a @ b, abs(a) @ abs(b)


@given(
    batches=st.sampled_from(BATCHES), M=st.integers(1, 40), K=st.integers(1, 90), N=st.integers(1, 150),
    a_type=dtypes, b_type=dtypes, seed=st.integers(0, 9),
    way=st.sampled_from(("rows", "columns", "every other", "heads")),
)
def test_any_size(batches, M, K, N, a_type, b_type, way, seed):
    rng = np.random.default_rng(seed)
    a, b = random(rng, (*batches[0], M, K), a_type), random(rng, (*batches[1], K, N), b_type)
    want, bound = product(numbers(a), numbers(b))
    if way == "columns":
        b = mx.contiguous(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    elif way == "every other":
        b = mx.repeat(b, 2, axis=-1)[..., ::2]
    elif way == "heads" and b.ndim > 2:
        b = mx.contiguous(b.swapaxes(0, -2)).swapaxes(0, -2)
    check(ops.matmul(a, b), want, bound, a_type if a_type == b_type else mx.float32)


@pytest.mark.parametrize(("M", "K", "N"), [(600, 70, 300), (1, 1100, 257), (2, 700, 1000), (40, 600, 8)])
def test_more_than_a_block_of_each(M, K, N):
    rng = np.random.default_rng(0)
    a, b = random(rng, (M, K)), random(rng, (K, N))
    want, bound = product(numbers(a), numbers(b))
    check(ops.matmul(a, b), want, bound)


def test_vectors_and_nothing_are_left_to_mlx():
    a, b = mx.ones((3,)), mx.ones((3, 4))
    assert ops.matmul(a, b).tolist() == [3.0] * 4
    assert ops.matmul(mx.ones((2, 0)), mx.ones((0, 3))).tolist() == [[0.0] * 3] * 2
    with pytest.raises(ValueError):
        ops.matmul(mx.ones((2, 3)), mx.ones((4, 5)))


def test_a_linear_layer_for_each_of_a_batch():
    rng = np.random.default_rng(0)
    x, w, bias = random(rng, (3, 7, 32)), random(rng, (3, 20, 32)), random(rng, (20,))
    want, bound = product(numbers(x), numbers(w).swapaxes(1, 2))
    check(ops.linear(x, w, bias), want + numbers(bias), bound + 1)


@pytest.mark.parametrize("batches", BATCHES)
def test_gradients(batches):
    rng = np.random.default_rng(0)
    a, b = random(rng, (*batches[0], 5, 11)), random(rng, (*batches[1], 11, 9))

    def loss(multiply):
        return lambda a, b: (multiply(a, b) ** 2).sum()

    for got, want in zip(mx.grad(loss(ops.matmul), (0, 1))(a, b), mx.grad(loss(mx.matmul), (0, 1))(a, b), strict=True):
        check(got, numbers(want), 2000)


def quantized(rng, shape, mode, bits, group, dtype):
    w, scales, *biases = mx.quantize(random(rng, shape), group, bits, mode)
    if not biases:
        return (w, scales, None), dequantized(w, scales, None, group, bits, mode)
    given = (w, scales.astype(dtype), biases[0].astype(dtype))
    return given, dequantized(*given, group, bits)


@given(
    mode=st.sampled_from(list(MODES)), bits=st.sampled_from((2, 3, 4, 5, 6, 8)), group=st.sampled_from((32, 64, 128)),
    batches=st.sampled_from(BATCHES), M=st.integers(1, 30), K=st.integers(1, 70), groups=st.integers(1, 5),
    x_type=dtypes, scale_type=dtypes, seed=st.integers(0, 9),
)
def test_quantized_and_not_transposed(mode, bits, group, batches, M, K, groups, x_type, scale_type, seed):
    rng = np.random.default_rng(seed)
    if mode != "affine":
        group, bits = MODES[mode]
    shape = (*batches[1], K, groups * max(group, 32))
    given, (weights, magnitude) = quantized(rng, shape, mode, bits, group, scale_type)
    x = random(rng, (*batches[0], M, K), x_type)
    y = ops.quantized_matmul(x, *given, transpose=False, group_size=group, bits=bits, mode=mode)
    check(y, numbers(x) @ weights, abs(numbers(x)) @ magnitude + 1, x_type)


@given(
    mode=st.sampled_from(list(MODES)), batches=st.sampled_from(BATCHES), M=st.integers(1, 12), rows=st.integers(1, 40),
    groups=st.integers(1, 4), x_type=dtypes,
)
def test_quantized_batches(mode, batches, M, rows, groups, x_type):
    rng = np.random.default_rng(rows)
    group, bits = MODES[mode]
    shape = (*batches[1], rows, groups * max(group, 32))
    given, (weights, magnitude) = quantized(rng, shape, mode, bits, group, x_type)
    x = random(rng, (*batches[0], M, weights.shape[-1]), x_type)
    y = ops.quantized_matmul(x, *given, group_size=group, bits=bits, mode=mode)
    want, bound = product(numbers(x), weights.swapaxes(-1, -2))
    check(y, want, abs(numbers(x)) @ magnitude.swapaxes(-1, -2) + bound, x_type)


@pytest.mark.parametrize(("M", "K"), [(300, 600), (1, 700), (2, 300)])
def test_quantized_columns_of_more_than_a_block(M, K):
    rng = np.random.default_rng(0)
    given, (weights, magnitude) = quantized(rng, (K, 640), "affine", 4, 64, mx.float32)
    x = random(rng, (M, K))
    y = ops.quantized_matmul(x, *given, transpose=False, group_size=64, bits=4)
    check(y, numbers(x) @ weights, abs(numbers(x)) @ magnitude)


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("stack", [(), (3,)])
def test_gradients_of_quantized_matmul(transpose, stack):
    """Training adapters needs those of x; the plain operation has those of scales and biases."""
    rng = np.random.default_rng(0)
    given, (weights, _) = quantized(rng, (*stack, 64, 96), "affine", 4, 32, mx.float32)
    weights = weights.swapaxes(-1, -2) if transpose else weights
    x = random(rng, (3, 5, weights.shape[-2]))
    multiply = partial(ops.quantized_matmul, transpose=transpose, group_size=32, bits=4)
    got = mx.grad(lambda x: (multiply(x, *given) ** 2).sum())(x)
    check(got, 2 * numbers(x) @ weights @ weights.swapaxes(-1, -2), 3e4)
    plain = partial(mx.quantized_matmul, transpose=transpose, group_size=32, bits=4)
    if not stack:
        of_scales, want = (mx.grad(lambda s, f=f: (f(x, given[0], s, given[2]) ** 2).sum())(given[1])
                           for f in (multiply, plain))
        check(of_scales, numbers(want), 1e5)


@pytest.mark.parametrize("transpose", [True, False])
def test_experts_either_way_round(transpose):
    rng = np.random.default_rng(0)
    given, (weights, magnitude) = quantized(rng, (5, 64, 96), "affine", 4, 32, mx.float32)
    if transpose:
        weights, magnitude = weights.swapaxes(1, 2), magnitude.swapaxes(1, 2)
    x, picks = random(rng, (20, 1, 1, weights.shape[1])), rng.integers(0, 5, (20, 2))
    multiply = partial(ops.gather_qmm, rhs_indices=mx.array(picks), transpose=transpose, group_size=32, bits=4)
    check(multiply(x, *given), numbers(x) @ weights[picks], abs(numbers(x)) @ magnitude[picks])
    got = mx.grad(lambda x: (multiply(x, *given) ** 2).sum())(x)
    want = (2 * numbers(x) @ weights[picks] @ weights[picks].swapaxes(-1, -2)).sum(1, keepdims=True)
    check(got, want, 3e4)


def test_dense_experts_either_way_round():
    rng = np.random.default_rng(0)
    x, w, picks = random(rng, (20, 1, 1, 33)), random(rng, (5, 33, 40)), rng.integers(0, 5, (20, 2))
    for weights in (w, mx.contiguous(w.swapaxes(1, 2)).swapaxes(1, 2), mx.repeat(w, 2, axis=2)[..., ::2]):
        y = ops.gather_mm(x, weights, rhs_indices=mx.array(picks))
        want, bound = product(numbers(x), numbers(w)[picks])
        check(y, want, bound)

    def loss(x, w):
        return (ops.gather_mm(x, w, rhs_indices=mx.array(picks)) ** 2).sum()

    gradients = mx.grad(loss, argnums=(0, 1))(x, w)
    y = 2 * numbers(x) @ numbers(w)[picks]
    check(gradients[0], (y @ numbers(w)[picks].swapaxes(-1, -2)).sum(1, keepdims=True), 2000)
    want = np.zeros(w.shape)
    np.add.at(want, picks, numbers(x).swapaxes(-1, -2) @ y)
    check(gradients[1], want, 2000)
