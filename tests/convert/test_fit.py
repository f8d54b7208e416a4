"""Fitted scales: the same format as MLX's own, exactly packed, and a smaller error on every kind of numbers."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.checkpoint.bits import pack, unpack
from mlxlm.convert.fit import fitted

BITS = (2, 3, 4, 5, 6, 8)


def restored(parts, bits, group):
    return np.array(mx.dequantize(*parts, group_size=group, bits=bits).astype(mx.float32))


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
