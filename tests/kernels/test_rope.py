"""Rotary positions against float64."""

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, numbers, random, rope

from mlxlm.kernels import ops


@given(
    B=st.integers(1, 3), H=st.integers(1, 4), L=st.integers(1, 20), D=st.integers(2, 70), half=st.integers(1, 35),
    traditional=st.booleans(), own=st.booleans(), scale=st.sampled_from((1.0, 0.25)),
    dtype=st.sampled_from(list(DTYPES.values())),
    offset=st.sampled_from(("int", "scalar", "rows")), swapped=st.booleans(),
)
def test_any_kind(B, H, L, D, half, traditional, own, scale, dtype, offset, swapped):
    half = min(half, D // 2)
    rng = np.random.default_rng(B * 100 + L)
    x = random(rng, (B, L, H, D), dtype).swapaxes(1, 2) if swapped else random(rng, (B, H, L, D), dtype)
    freqs = rng.uniform(1, 50, half).astype(np.float32)
    inverse = 1 / freqs.astype(np.float64) if own else 1e4 ** (-np.arange(half) / half)
    offsets = [int(rng.integers(0, 90))] * B if offset != "rows" else [int(o) for o in rng.integers(0, 90, B)]
    given_offset = offsets[0] if offset == "int" else mx.array(offsets[0] if offset == "scalar" else offsets)
    y = ops.rope(x, 2 * half, traditional=traditional, base=None if own else 1e4, scale=scale, offset=given_offset,
                 freqs=mx.array(freqs) if own else None)
    want = rope(numbers(x), 2 * half, traditional, inverse, scale, offsets)
    # An angle is a float32 product: at position 100 it is off by about 1e-5.
    check(y, want, 1, dtype, terms=6e-5)


def test_three_axes_and_kept_angles():
    rng = np.random.default_rng(0)
    x = random(rng, (2, 7, 16))
    inverse = {base: base ** (-np.arange(8) / 8.0) for base in (1e4, 1e6, 5e5, 3.0, 77.0, 1e2)}
    for _ in range(2):
        for base in inverse:
            for offset in (0, 5):
                y = ops.rope(x, 16, traditional=False, base=base, scale=1.0, offset=offset)
                want = rope(numbers(x)[:, None], 16, False, inverse[base], 1.0, [offset] * 2)[:, 0]
                check(y, want, 1, terms=6e-6)


def test_more_axes_fall_to_the_twin():
    x = random(np.random.default_rng(0), (2, 3, 4, 5, 8))
    y = ops.rope(x, 8, traditional=False, base=1e4, scale=1.0, offset=3)
    want = rope(numbers(x).reshape(2, 12, 5, 8), 8, False, 1e4 ** (-np.arange(4) / 4.0), 1.0, [3, 3])
    check(y, want.reshape(x.shape), 1, terms=6e-6)
