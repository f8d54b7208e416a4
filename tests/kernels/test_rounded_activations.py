"""Prompts with activations in 8 bits: against float64 sums of what the definition makes of them."""

import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, dequantized, numbers, random

from mlxlm.errors import UsageError
from mlxlm.kernels import in_force, install, ops, rounding
from mlxlm.kernels.choice import CHOICE

BITS = (2, 3, 4, 5, 6, 8)
dtypes = st.sampled_from(list(DTYPES.values()))
ROUNDS = in_force()["instruction_set"] not in (None, "scalar")


def rounded(x: np.ndarray) -> np.ndarray:
    """The definition: each 32 numbers as integers up to 127 times a step, both made with float32 factors."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    most = abs(groups).max(-1, keepdims=True)
    some = np.where(most < 2.0**-100, 1, most)
    factor = (np.float32(127) / some.astype(np.float32)).astype(np.float64)
    step = (some.astype(np.float32) / np.float32(127)).astype(np.float64)
    return np.where(most < 2.0**-100, 0, np.rint(groups * factor) * step).reshape(x.shape)


def product(x: mx.array, w, scales, biases, group: int, bits: int, mode: str = "affine", bias=None):
    """(sums of the rounded activations, what their terms come to, exact sums, how far these may be from the first)."""
    weights, magnitude = dequantized(w, scales, biases, group, bits, mode)
    plain = numbers(x)
    as_taken = rounded(plain) if ROUNDS and x.shape[-2] > 8 else plain
    steps = np.repeat(abs(plain).reshape(*plain.shape[:-1], -1, 32).max(-1) / 127, 32, -1)
    more = 0 if bias is None else numbers(bias)
    size = abs(as_taken) @ magnitude.T + 1
    return as_taken @ weights.T + more, size, plain @ weights.T + more, steps @ abs(weights).T * 0.5001


@given(
    bits=st.sampled_from(BITS), group=st.sampled_from((32, 64, 128)), groups=st.integers(1, 9), rows=st.integers(1, 75),
    count=st.integers(1, 45), x_type=dtypes, scale_type=dtypes, biased=st.booleans(), seed=st.integers(0, 99),
)
def test_affine(bits, group, groups, rows, count, x_type, scale_type, biased, seed):
    rng = np.random.default_rng(seed)
    quantized = [a if a.dtype == mx.uint32 else a.astype(scale_type)
                 for a in mx.quantize(random(rng, (rows, group * groups)), group, bits)]
    x = random(rng, (count, group * groups), x_type, scale=10.0 ** rng.integers(-3, 3))
    bias = random(rng, (rows,)) if biased else None
    y = ops.quantized_linear(x, *quantized, bias, group_size=group, bits=bits, int8=True)
    want, size, exact, apart = product(x, *quantized, group, bits, bias=bias)
    check(y, want, size, x_type)
    assert (abs(want - exact) <= apart + 1e-6 * size).all()


@pytest.mark.parametrize(("mode", "group", "bits"), [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)])
@given(groups=st.integers(1, 9), rows=st.integers(1, 70), count=st.integers(9, 20), x_type=dtypes)
def test_microscaled(mode, group, bits, groups, rows, count, x_type):
    """Those of 4 bits in groups of 32 are multiplied as integers, the others as they always are."""
    rng = np.random.default_rng(groups)
    w, scales, *_ = mx.quantize(random(rng, (rows, groups * 32), scale=3), mode=mode)
    x = random(rng, (count, groups * 32), x_type)
    y = ops.quantized_linear(x, w, scales, group_size=group, bits=bits, mode=mode, int8=True)
    want, size, exact, _ = product(x, w, scales, None, group, bits, mode)
    check(y, exact if mode in rounding.EXACT_MODES else want, 3 * size, x_type)


@pytest.mark.parametrize("count", [1, 8, 9, 300, 600])
@pytest.mark.parametrize(("columns", "group", "bits"), [(2080, 32, 4), (8320, 128, 3), (4096, 64, 8)])
def test_long_rows_and_many(count, columns, group, bits):
    rng = np.random.default_rng(0)
    quantized = mx.quantize(random(rng, (29, columns)), group, bits)
    x = random(rng, (count, columns))
    y = ops.quantized_linear(x, *quantized, group_size=group, bits=bits, int8=True)
    want, size, *_ = product(x, *quantized, group, bits)
    check(y, want, size)


def test_decoding_stays_exact_in_batches():
    rng = np.random.default_rng(0)
    quantized = mx.quantize(random(rng, (33, 128)), 64, 4)
    for positions in (1, 8):
        x = random(rng, (16, positions, 128))
        y = ops.quantized_linear(x, *quantized, group_size=64, bits=4, int8=True)
        assert mx.array_equal(y, ops.quantized_linear(x, *quantized, group_size=64, bits=4))


def test_other_strides_and_leading_axes():
    rng = np.random.default_rng(0)
    quantized = mx.quantize(random(rng, (60, 128)), 64, 4)
    x = random(rng, (3, 20, 256))[..., ::2]
    y = ops.quantized_linear(x, *quantized, group_size=64, bits=4, int8=True)
    want, size, *_ = product(x, *quantized, 64, 4)
    check(y, want, size)


def test_groups_without_anything_and_with_the_least():
    rng = np.random.default_rng(0)
    quantized = mx.quantize(random(rng, (20, 128)), 32, 4)
    x = np.zeros((12, 128), np.float32)
    x[1, 40], x[2, 64:] = 3, 1e-38
    x[3, :32], x[4, 7], x[5] = 2.0**-99, 1e36, 127 - np.arange(128) / 2
    y = ops.quantized_linear(mx.array(x), *quantized, group_size=32, bits=4, int8=True)
    want, size, *_ = product(mx.array(x), *quantized, 32, 4)
    check(y, want, size)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_in_its_row(value):
    rng = np.random.default_rng(0)
    quantized = mx.quantize(random(rng, (20, 128)), 64, 4)
    x = np.array(random(rng, (12, 128)))
    x[5, 100] = value
    y = numbers(ops.quantized_linear(mx.array(x), *quantized, group_size=64, bits=4, int8=True))
    assert not np.isfinite(y[5]).any()
    assert np.isfinite(np.delete(y, 5, 0)).all()


def test_gradients_are_those_of_exact_activations():
    rng = np.random.default_rng(0)
    quantized = mx.quantize(random(rng, (33, 128)), 64, 4)
    x = random(rng, (12, 128))

    def total(x, int8):
        return ops.quantized_linear(x, *quantized, group_size=64, bits=4, int8=int8).sum()

    assert mx.allclose(mx.grad(total)(x, True), mx.grad(total)(x, False), atol=1e-6)


def small_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 64))
    nn.quantize(model, 64, 4)
    install(model)
    return model


def test_the_choice_is_the_modules_own():
    model, other = small_model(), small_model()
    if not ROUNDS:
        with pytest.warns(UserWarning, match=r"changes nothing here.*scalar"):
            assert rounding.choose(model, "int8") == 0
        return
    assert rounding.choose(model, "int8") == 2
    assert rounding.choose(other, None) == 0
    x = random(np.random.default_rng(0), (20, 128))
    other.update(model.parameters())
    assert not mx.array_equal(model(x), other(x))
    assert mx.array_equal(model(x[:8]), other(x[:8]))


def test_what_can_not_be_honoured_is_told(monkeypatch):
    with pytest.raises(UsageError, match=r"int7.*expected int8"):
        rounding.check("int7")
    with pytest.warns(UserWarning, match="changes nothing here"):
        rounding.choose(nn.Sequential(nn.Linear(128, 64)), "int8")
    monkeypatch.setattr("mlxlm.kernels.choice.CHOICE", CHOICE.__class__(None, None, "MLX runs on a GPU"))
    model = small_model()
    with pytest.warns(UserWarning, match=r"not in force.*MLX runs on a GPU"):
        assert rounding.choose(model, "int8") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rounding.choose(model, None) == 0
