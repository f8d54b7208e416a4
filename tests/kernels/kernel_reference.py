"""The operations in float64 numpy, written from their definitions, and what an error may be."""

import mlx.core as mx
import numpy as np

DTYPES = {"f32": mx.float32, "bf16": mx.bfloat16, "f16": mx.float16}
ROUNDING = {mx.float32: 2.0**-23, mx.bfloat16: 2.0**-8, mx.float16: 2.0**-10}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def numbers(a: mx.array) -> np.ndarray:
    return np.array(a.astype(mx.float32)).astype(np.float64)


def random(rng, shape, dtype=mx.float32, scale=1.0) -> mx.array:
    return mx.array((rng.standard_normal(shape) * scale).astype(np.float32)).astype(dtype)


def codes(w: mx.array, bits: int) -> np.ndarray:
    """The unsigned codes of packed rows: a little-endian stream of bits, whatever their number."""
    stream = np.unpackbits(np.array(w).view(np.uint8), axis=-1, bitorder="little")
    each = stream.reshape(*stream.shape[:-1], -1, bits)
    return (each.astype(np.int64) << np.arange(bits)).sum(-1)


def e4m3(c: np.ndarray) -> np.ndarray:
    c = c.astype(np.int64)
    exponent, mantissa = (c >> 3) & 15, c & 7
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    return np.where(c & 128, -magnitude, magnitude)


def dequantized(w, scales, biases, group, bits, mode="affine"):
    """(weights, magnitude): ``magnitude`` bounds what each weight contributes before terms cancel."""
    c = codes(w, bits)
    if mode == "affine":
        s, b = (np.repeat(numbers(t), group, -1) for t in (scales, biases))
        return c * s + b, c * abs(s) + abs(b)
    stored = np.array(scales).astype(np.int64)
    s = np.repeat(e4m3(stored) if mode == "nvfp4" else 2.0 ** (stored - 127.0), group, -1)
    values = (e4m3(c) if bits == 8 else E2M1[c]) * s
    return values, abs(values)


def check(got: mx.array, want: np.ndarray, bound, dtype=None, terms: float = 4e-6):
    """|got - want| within f32 summation of terms of size ``bound``, and one rounding to the dtype."""
    assert got.shape == want.shape
    if dtype is not None:
        assert got.dtype == dtype
    error = abs(numbers(got) - want)
    allowed = terms * np.broadcast_to(bound, want.shape) + ROUNDING[got.dtype] * abs(want) + 1e-7
    worst = np.max(error - allowed, initial=-np.inf)
    assert worst <= 0, f"off by {error.max():.3g}, {worst:.3g} more than allowed"


def softmax(scores, sinks=None):
    top = scores.max(-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks)
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks - top)
    return e / total


def attention(q, k, v, scale, mask=None, sinks=None, cap=None):
    """q (B, Hq, L, D), k and v (B, Hk, S, D or Dv) in float64; mask as ops.attention takes it, arrays as numpy."""
    group, (L, S) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = q @ k.swapaxes(-1, -2) * scale
    if cap is not None:
        scores = cap * np.tanh(scores / cap)
    if isinstance(mask, str):
        mask = np.arange(S) <= np.arange(L)[:, None] + S - L
    if mask is not None:
        scores = np.where(mask, scores, -1e30) if mask.dtype == bool else scores + mask
    return softmax(scores, None if sinks is None else sinks[:, None, None]) @ v


def rope(x, dims, traditional, inverse, scale, offsets):
    """x (B, H, L, D) in float64; ``inverse`` (dims/2,) angles a position, ``offsets`` (B,)."""
    positions = (np.asarray(offsets)[:, None] + np.arange(x.shape[2])) * scale
    angles = (positions[..., None] * inverse)[:, None]
    cosine, sine = np.cos(angles), np.sin(angles)
    out = x.copy()
    half = dims // 2
    a, b = (slice(0, dims, 2), slice(1, dims, 2)) if traditional else (slice(0, half), slice(half, dims))
    out[..., a] = x[..., a] * cosine - x[..., b] * sine
    out[..., b] = x[..., a] * sine + x[..., b] * cosine
    return out
