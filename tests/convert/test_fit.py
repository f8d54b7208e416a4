"""Fitted scales: the same format as MLX's own, exactly packed, and a smaller error on every kind of numbers."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.checkpoint.bits import pack, unpack
from mlxlm.convert.fit import LEAST, evened, fitted

BITS = (2, 3, 4, 5, 6, 8)


def restored(parts, bits, group):
    return np.array(mx.dequantize(*parts, group_size=group, bits=bits).astype(mx.float32))


def as_floats(parts, bits):
    """What (rows, 256) numbers in groups of 64 stand for, before any rounding of the results."""
    codes = np.array(unpack(parts[0], bits)).astype(np.float64).reshape(-1, 4, 64)
    scales, biases = (np.array(p.astype(mx.float32)).astype(np.float64)[..., None] for p in parts[1:])
    return (codes * scales + biases).reshape(-1, 256)


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_packed_as_the_format_says(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 96), dtype=np.uint32)
    stream = np.unpackbits(codes.view(np.uint8).reshape(3, 96, 4), axis=-1, bitorder="little")[..., :bits]
    wanted = np.packbits(stream.reshape(3, -1), axis=-1, bitorder="little").view(np.uint32)
    assert (np.array(pack(mx.array(codes), bits)) == wanted).all()
    assert (np.array(unpack(mx.array(wanted), bits)) == codes).all()
    scales, biases = mx.ones((3, 3)), mx.zeros((3, 3))
    assert (restored((pack(mx.array(codes), bits), scales, biases), bits, 32) == codes).all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", BITS)
def test_the_error_is_below_that_of_min_and_max(bits, group, dtype):
    rng = np.random.default_rng(7)
    w = rng.standard_normal((48, 256)) * np.where(rng.random((48, 256)) > 0.98, 4, 1)
    w = mx.array(w.astype(np.float32)).astype(dtype)
    plain, ours = mx.quantize(w, group_size=group, bits=bits), fitted(w, bits, group)
    assert [(p.shape, p.dtype) for p in plain] == [(p.shape, p.dtype) for p in ours]
    exact = np.array(w.astype(mx.float32))
    weight = exact**2 + (exact.reshape(48, -1, group) ** 2).mean(-1).repeat(group, -1)
    error = [(weight * (restored(p, bits, group) - exact) ** 2).sum() for p in (ours, plain)]
    assert error[0] < error[1]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_no_group_is_worse_than_mlx_leaves_it(bits, dtype):
    """Under the weights that are fitted by, group by group: normal, one-sided, sparse and constant numbers."""
    rng = np.random.default_rng(bits)
    rows = np.concatenate([rng.standard_normal((16, 256)), rng.random((8, 256)), -rng.random((8, 256)) - 3,
                           rng.standard_normal((8, 256)) * (rng.random((8, 256)) > 0.9), np.full((2, 256), 0.3)])
    w = mx.array(rows.astype(np.float32)).astype(dtype)
    counts = rng.random(256).astype(np.float32) ** 8
    exact, weight = np.array(w.astype(mx.float32)).astype(np.float64), counts / counts.mean() + LEAST
    ours, plain = fitted(w, bits, 64, mx.array(counts)), mx.quantize(w, group_size=64, bits=bits)
    error = [(weight * (as_floats(p, bits) - exact) ** 2).reshape(42, 4, 64).sum(-1) for p in (ours, plain)]
    assert (error[0] <= error[1] * (1 + 1e-4) + 1e-9).all()
    assert error[0].sum() < error[1].sum()


def test_what_is_fed_more_is_kept_better():
    w, counts = mx.random.normal((64, 128), key=mx.random.key(0)), np.ones(128, np.float32)
    counts[5] = 400
    known, blind = (restored(fitted(w, 3, 64, c), 3, 64) - np.array(w) for c in (mx.array(counts), None))
    assert (counts * known**2).sum() < 0.5 * (counts * blind**2).sum()
    nothing = fitted(w, 3, 64, mx.zeros(128))
    assert all((a == b).all().item() for a, b in zip(nothing, fitted(w, 3, 64, mx.ones(128)), strict=True))


def test_inputs_with_small_weights_are_taken_for_large():
    w = np.random.default_rng(0).standard_normal((3, 50, 64)).astype(np.float32)
    w[..., 7] = 0
    got, wanted = np.array(evened(mx.array(w))), 1 / np.delete((w**2).mean((0, 1)), 7)
    np.testing.assert_allclose(np.delete(got, 7), wanted, rtol=1e-5)
    assert np.isfinite(got).all() and got[7] > wanted.max()


@settings(max_examples=60)
@given(st.sampled_from(BITS), st.floats(-1e4, 1e4), st.sampled_from((0, 1e-9, 1e-3, 1, 1e3)), st.integers(0, 9))
def test_a_group_is_never_off_by_more_than_a_step(bits, centre, width, seed):
    """Constant groups, tiny and huge ranges: finite, and within two steps of the grid."""
    w = (centre + width * np.random.default_rng(seed).random((1, 64))).astype(np.float32)
    back = restored(fitted(mx.array(w), bits, 64), bits, 64)
    assert np.isfinite(back).all()
    step = (w.max() - w.min()) / (2**bits - 1)
    assert np.abs(back - w).max() <= 2 * step + 1e-5 * np.abs(w).max()


def test_more_axes_and_parts_give_the_same():
    w = mx.random.normal((4, 6, 128), key=mx.random.key(0))
    whole = fitted(w, 4, 64)
    for i in range(4):
        for part, mine in zip(whole, fitted(w[i], 4, 64), strict=True):
            assert (part[i] == mine).all().item()
