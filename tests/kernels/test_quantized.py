"""Quantized matmul and embedding look-up against codes unpacked and multiplied in float64."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, dequantized, numbers, random

from mlxlm.kernels import ops

BITS = (2, 3, 4, 5, 6, 8)
MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
dtypes = st.sampled_from(list(DTYPES.values()))


def affine(rng, rows, columns, group, bits, dtype):
    w, scales, biases = mx.quantize(random(rng, (rows, columns)), group, bits)
    return w, scales.astype(dtype), biases.astype(dtype)


def strided(x: mx.array, way: str) -> mx.array:
    """The same values behind other strides."""
    if way == "transposed":
        return mx.contiguous(x.swapaxes(0, -1)).swapaxes(0, -1)
    if way == "sliced":
        return mx.concatenate([x, x], axis=-1)[..., : x.shape[-1]]
    if way == "every other":
        return mx.repeat(x, 2, axis=-1)[..., ::2]
    return x


@given(
    bits=st.sampled_from(BITS), group=st.sampled_from((32, 64, 128)), groups=st.integers(1, 5),
    rows=st.integers(1, 45), count=st.integers(1, 40), x_type=dtypes, scale_type=dtypes, biased=st.booleans(),
    way=st.sampled_from(("plain", "transposed", "sliced", "every other")), seed=st.integers(0, 99),
)
def test_affine(bits, group, groups, rows, count, x_type, scale_type, biased, way, seed):
    rng = np.random.default_rng(seed)
    quantized = affine(rng, rows, group * groups, group, bits, scale_type)
    x = random(rng, (count, group * groups), x_type)
    bias = random(rng, (rows,)) if biased else None
    y = ops.quantized_linear(strided(x, way), *quantized, bias, group_size=group, bits=bits)
    weights, magnitude = dequantized(*quantized, group, bits)
    want = numbers(x) @ weights.T + (0 if bias is None else numbers(bias))
    check(y, want, abs(numbers(x)) @ magnitude.T + 1, x_type)


@pytest.mark.parametrize("mode", MODES)
@given(groups=st.integers(1, 9), rows=st.integers(1, 30), count=st.integers(1, 20), x_type=dtypes)
def test_microscaled(mode, groups, rows, count, x_type):
    group, bits = MODES[mode]
    columns = groups * 32
    rng = np.random.default_rng(groups)
    w, scales, *_ = mx.quantize(random(rng, (rows, columns), scale=3), mode=mode)
    x = random(rng, (count, columns), x_type)
    y = ops.quantized_matmul(x, w, scales, group_size=group, bits=bits, mode=mode)
    weights, magnitude = dequantized(w, scales, None, group, bits, mode)
    check(y, numbers(x) @ weights.T, abs(numbers(x)) @ magnitude.T, x_type)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1,), (2, 3), (1, 1, 70), (0, 5)])
def test_leading_axes(bits, shape):
    rng = np.random.default_rng(0)
    quantized = affine(rng, 33, 192, 64, bits, mx.float32)
    x = random(rng, (*shape, 192))
    y = ops.quantized_matmul(x, *quantized, group_size=64, bits=bits)
    weights, magnitude = dequantized(*quantized, 64, bits)
    check(y, numbers(x) @ weights.T, abs(numbers(x)) @ magnitude.T)


def test_long_rows_cross_every_block_of_depth():
    rng = np.random.default_rng(0)
    quantized = affine(rng, 29, 2080, 32, 4, mx.float16)
    for count in (1, 3, 300):
        x = random(rng, (count, 2080))
        y = ops.quantized_matmul(x, *quantized, group_size=32, bits=4)
        weights, magnitude = dequantized(*quantized, 32, 4)
        check(y, numbers(x) @ weights.T, abs(numbers(x)) @ magnitude.T)


@pytest.mark.parametrize("count", [1, 20])
def test_weights_of_other_strides(count):
    """A part of the rows, and arrays whose rows lie apart, as merged projections make them."""
    rng = np.random.default_rng(0)
    whole = affine(rng, 60, 128, 64, 4, mx.float32)
    x = random(rng, (count, 128))
    for part in (slice(7, 31), slice(0, 60, 2)):
        piece = [a[part] for a in whole]
        y = ops.quantized_matmul(x, *piece, group_size=64, bits=4)
        weights, magnitude = dequantized(*whole, 64, 4)
        check(y, numbers(x) @ weights[part].T, abs(numbers(x)) @ magnitude[part].T)


@given(
    bits=st.sampled_from(BITS), group=st.sampled_from((32, 64, 128)), groups=st.integers(1, 5), rows=st.integers(1, 40),
    scale_type=dtypes, dtype=st.sampled_from((None, *DTYPES.values())),
    index_type=st.sampled_from((mx.int32, mx.uint32, mx.int64)),
)
def test_embedding(bits, group, groups, rows, scale_type, dtype, index_type):
    rng = np.random.default_rng(rows)
    quantized = affine(rng, rows, group * groups, group, bits, scale_type)
    indices = mx.array(rng.integers(0, rows, (2, 11))).astype(index_type)
    y = ops.quantized_embedding(indices, *quantized, group_size=group, bits=bits, dtype=dtype)
    weights, magnitude = dequantized(*quantized, group, bits)
    at = np.array(indices)
    check(y, weights[at], magnitude[at], dtype or scale_type, terms=2e-7)


@pytest.mark.parametrize("mode", MODES)
def test_microscaled_embedding(mode):
    group, bits = MODES[mode]
    w, scales, *_ = mx.quantize(random(np.random.default_rng(0), (9, 96)), mode=mode)
    y = ops.quantized_embedding(mx.array([8, 0, -1]), w, scales, group_size=group, bits=bits, mode=mode,
                                dtype=mx.float32)
    weights, _ = dequantized(w, scales, None, group, bits, mode)
    check(y, weights[[8, 0, 8]], 0)


@pytest.mark.parametrize("mode", MODES)
def test_every_code_and_scale(mode):
    """All codes under all finite scales, subnormal ones included."""
    group, bits = MODES[mode]
    every = np.arange(2**bits, dtype=np.uint32)
    row = np.resize(every, 256)
    if bits == 8:  # 0x7f and 0xff are NaN in the format's definition, 480 in MLX: no quantizer writes them
        row = np.where(row % 128 == 127, 0, row)
    packed = np.zeros(256 * bits // 32, np.uint32)
    for i, code in enumerate(row):
        packed[i * bits // 32] |= np.uint32(code) << np.uint32(i * bits % 32)
    stored = np.arange(1, 127 if mode == "nvfp4" else 240, dtype=np.uint8)
    w = mx.array(np.repeat(packed[None], len(stored), 0))
    scales = mx.array(np.repeat(stored[:, None], 256 // group, 1))
    y = ops.quantized_embedding(mx.arange(len(stored)), w, scales, group_size=group, bits=bits, mode=mode,
                                dtype=mx.float32)
    weights, _ = dequantized(w, scales, None, group, bits, mode)
    np.testing.assert_array_equal(numbers(y), weights.astype(np.float32))
