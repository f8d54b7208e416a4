"""GGUF's quantized blocks to MLX's quantized layout, bit for bit where the two can say the same.

A group of 32 weights in MLX is w = scale * q + bias. What that means for each type of block:

- Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL: d * q + m, or d * (q - half). Exact with float16 scales, which is how they are
  held (bias = -half * d is a shift of the exponent; a tensor where it would overflow has float32 ones).
- Q4_K, Q5_K, IQ4_XS: scale and bias are products of 11 and 6 bits. Exact with float32 scales; float16 ones would round
  them, which costs up to 2^-11 of a scale or bias.
- MXFP4: MLX's mxfp4 mode. Exact.
- Q6_K has groups of 16: two of them share 256 levels in a way that keeps the coarser one exact.
- The other types with groups of 16 (Q2_K, Q3_K, IQ1, IQ2, IQ3) are rounded to 8 bits in groups of 32, at most 1/510 of
  the group's range away: a small part of their own step.
- TQ1_0, TQ2_0: three values a block, held as float16. Exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .gguf_header import Tensor

GROUP = 32
PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
AS_FLOAT16 = ("TQ1_0", "TQ2_0")
HALF_SCALES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
HALF_MOST = float(np.finfo(np.float16).max)
PART = 1 << 19  # weights that are worked on at a time, so that what lies between fits the cache
# Eight bits as the fifth bits of eight codes, a byte each.
FIFTH_BITS = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.uint64) << np.uint64(4)
LOW_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
                      np.int16)  # ggml's table


@dataclass(frozen=True)
class Packed:
    """A quantized tensor in MLX's layout: ``biases`` is None for mxfp4."""

    weight: np.ndarray  # uint32 (..., words of a row)
    scales: np.ndarray  # float16 where it holds them and the biases exactly, else float32; uint8 for mxfp4
    biases: np.ndarray | None
    bits: int
    mode: str = "affine"


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor stays as numbers rather than codes."""
    return tensor.block.name in PLAIN or tensor.block.name in AS_FLOAT16


def repack(tensor: Tensor, data: np.ndarray | None = None) -> Packed:
    """``data`` stands for the tensor's own bytes, its rows reordered."""
    data = tensor.data if data is None else data
    name = tensor.block.name
    if name == "MXFP4":
        return _mxfp4(tensor, data)
    bits, function = KINDS.get(name, (8, None))
    groups = tensor.shape[-1] // GROUP
    rows = data.shape[0]
    words = np.empty((rows, groups * bits), np.uint32)
    half = name in HALF_SCALES
    scales, biases = (np.empty((rows, groups), np.float16 if half else np.float32) for _ in range(2))
    step = max(1, PART // tensor.shape[-1])
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be inf or NaN: it stays what it is
        for at in range(0, rows, step):
            part = slice(at, at + step)
            if function is None:
                codes, scale, bias = _rounded(_numbers(data[part], name))
            else:
                codes, scale, bias = function(np.ascontiguousarray(data[part]).reshape(-1, tensor.block.bytes))
            packed = codes if bits == 8 else PACKERS[bits](codes)
            words[part] = packed.reshape(len(data[part]), -1).view(np.uint32)
            if scale.dtype != scales.dtype:
                scales, biases = scales.astype(np.float32), biases.astype(np.float32)
            scales[part], biases[part] = scale.reshape(-1, groups), bias.reshape(-1, groups)
    shape = tensor.shape[:-1]
    return Packed(words.reshape(*shape, -1), scales.reshape(*shape, -1), biases.reshape(*shape, -1), bits)


def numbers(tensor: Tensor, data: np.ndarray | None = None) -> np.ndarray:
    """The values as they are stored (bfloat16 as its bits, float64 as float32); of quantized tensors in float32."""
    data = tensor.data if data is None else data
    name = tensor.block.name
    if name in PLAIN:
        values = np.ascontiguousarray(data).view(PLAIN[name]).reshape(tensor.shape)
        return values.astype(np.float32) if name == "F64" else values
    values = _numbers(data, name).reshape(tensor.shape)
    return values.astype(np.float16) if name in AS_FLOAT16 else values


def floats(tensor: Tensor) -> np.ndarray:
    """The values in float32."""
    values = numbers(tensor)
    if tensor.block.name == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _numbers(data: np.ndarray, name: str) -> np.ndarray:
    if name == "Q6_K":
        return _q6_k_values(data)
    from gguf import GGMLQuantizationType, quants  # slow to import, and only the rarer types need it

    return quants.dequantize(np.ascontiguousarray(data), GGMLQuantizationType[name])


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte ``at`` of each block, (n, 1)."""
    return np.ascontiguousarray(blocks.view(np.float16)[:, at // 2, None])


def _wide(blocks: np.ndarray, at: int) -> np.ndarray:
    return _half(blocks, at).astype(np.float32)


def _symmetric(blocks: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """(d, -2^shift * d) of blocks that begin with d: in float16, or both in float32 where the product overflows."""
    d = _half(blocks, 0)
    bits = d.view(np.uint16)
    exponents = bits & 0x7C00
    if exponents.min(initial=0x7C00) > 0 and exponents.max(initial=0) + (shift << 10) < 0x7C00:
        return d, ((bits + np.uint16(shift << 10)) ^ 0x8000).view(np.float16)
    # Zeros, subnormal numbers and those beyond float16 are multiplied.
    biases = d.astype(np.float32) * np.float32(-(2**shift))
    if np.abs(biases).max(initial=0) <= HALF_MOST:
        return d, biases.astype(np.float16)
    return d.astype(np.float32), biases


def _nibbles(blocks: np.ndarray, at: int) -> np.ndarray:
    """16 bytes from ``at``, low nibbles first and then high ones, as MLX packs 32 codes of 4 bits: uint8 (n, 16)."""
    pairs = np.ascontiguousarray(blocks[:, at : at + 16]).view(np.uint16)
    out = np.empty((len(blocks), 16), np.uint8)
    for half, nibbles in ((out[:, :8], pairs), (out[:, 8:], pairs >> 4)):
        nibbles = nibbles & 0x0F0F
        half[:] = (nibbles | nibbles >> 4).view(np.uint8)[:, ::2]
    return out


def _q4_0(blocks: np.ndarray):
    return _nibbles(blocks, 2), *_symmetric(blocks, 3)


def _q4_1(blocks: np.ndarray):
    return _nibbles(blocks, 4), _half(blocks, 0), _half(blocks, 2)


def _fifth_bit(blocks: np.ndarray, at: int) -> np.ndarray:
    """Codes of 5 bits: 4 bytes of top bits from ``at``, then 16 of nibbles; uint8 (n, 32)."""
    nibbles = np.ascontiguousarray(blocks[:, at + 4 : at + 20]).view(np.uint64)
    out = FIFTH_BITS[blocks[:, at : at + 4]]
    for i in range(2):  # by column: numpy works through the longer axis faster
        out[:, i] |= nibbles[:, i] & LOW_NIBBLES
        out[:, i + 2] |= (nibbles[:, i] >> np.uint64(4)) & LOW_NIBBLES
    return out.view(np.uint8)


def _q5_0(blocks: np.ndarray):
    return _fifth_bit(blocks, 2), *_symmetric(blocks, 4)


def _q5_1(blocks: np.ndarray):
    return _fifth_bit(blocks, 4), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: np.ndarray):
    return blocks[:, 2:] ^ np.uint8(0x80), *_symmetric(blocks, 7)


def _six_bit_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 8 scales and 8 minima of Q4_K and Q5_K, 12 bytes from byte 4, as float32 (n, 8) with d and dmin in them."""
    low, high, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([low & 0x3F, (mixed & 0x0F) | ((low >> 2) & 0x30)], axis=1)
    minima = np.concatenate([high & 0x3F, (mixed >> 4) | ((high >> 2) & 0x30)], axis=1)
    return _wide(blocks, 0) * scales, -(_wide(blocks, 2) * minima)


def _q4_k(blocks: np.ndarray):
    scales, biases = _six_bit_scales(blocks)
    pairs = np.ascontiguousarray(blocks[:, 16:]).view(np.uint16).reshape(-1, 4, 16)
    out = np.empty((len(blocks), 4, 2, 16),
                   np.uint8)  # 32 bytes hold two groups: one in the low nibbles, one in the high
    out[:, :, 0] = (pairs & 0x0F) | ((pairs >> 4) & 0xF0)
    out[:, :, 1] = ((pairs >> 4) & 0x0F) | ((pairs >> 8) & 0xF0)
    return out, scales, biases


def _q5_k(blocks: np.ndarray):
    scales, biases = _six_bit_scales(blocks)
    high, low = blocks[:, 16:48], blocks[:, 48:].reshape(-1, 4, 32)
    out = np.empty((len(blocks), 8, 32), np.uint8)
    out[:, 0::2], out[:, 1::2] = low & 0x0F, low >> 4
    for group in range(8):
        out[:, group] |= ((high >> np.uint8(group)) & 1) << np.uint8(4)
    return out.reshape(-1, 32), scales, biases


def _iq4_nl(blocks: np.ndarray):
    return _table_codes(blocks[:, 2:]), *_symmetric(blocks, 7)


def _iq4_xs(blocks: np.ndarray):
    low = np.stack([blocks[:, 4:8] & 0x0F, blocks[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    steps = (low | ((high & 3) << 4)).astype(np.int16) - 32
    d = _wide(blocks, 0) * steps
    return _table_codes(blocks[:, 8:].reshape(-1, 16)), d, -128 * d


def _table_codes(packed: np.ndarray) -> np.ndarray:
    """Nibbles that stand for IQ4's 16 levels, all whole numbers, to codes of 8 bits around 128: uint8 (n, 32)."""
    levels = (IQ4_VALUES + 128).astype(np.uint8)
    return np.concatenate([levels[packed & 0x0F], levels[packed >> 4]], axis=1)


def _six_bit_codes(blocks: np.ndarray) -> np.ndarray:
    """Q6_K's codes less 32: 128 bytes of low nibbles, 64 of top bits, two halves of 128 weights; int8 (n, 256)."""
    low, high = blocks[:, :128].reshape(-1, 2, 2, 32), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    codes = np.empty((len(blocks), 2, 4, 32), np.uint8)
    codes[:, :, :2], codes[:, :, 2:] = low & 0x0F, low >> 4
    codes |= ((high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3) << np.uint8(4)
    return codes.view(np.int8).reshape(-1, 256) - np.int8(32)


def _q6_k_values(data: np.ndarray) -> np.ndarray:
    blocks = np.ascontiguousarray(data).reshape(-1, 210)
    scales = _wide(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return (_six_bit_codes(blocks).reshape(-1, 16, 16) * scales[:, :, None]).reshape(len(data), -1)


def _q6_k(blocks: np.ndarray):
    """Two groups of 16 share 256 levels, whose step is a whole fraction of the coarser group's: that one stays exact.

    All is counted in whole numbers of d. The finer group is at most half a step away.
    """
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.int16)
    counts = _six_bit_codes(blocks).reshape(-1, 16, 16) * scales[:, :, None]
    counts = counts.reshape(-1, GROUP).astype(np.float32)
    coarse = np.maximum(np.abs(scales.reshape(-1, 2)).max(axis=1, keepdims=True), 1).astype(np.float32)
    low, high = counts.min(axis=1, keepdims=True), counts.max(axis=1, keepdims=True)
    parts = np.clip(np.floor(254 * coarse / np.maximum(high - low, 1)), 1, coarse)
    first = np.rint(low * (parts / coarse))
    codes = (np.rint(counts * (parts / coarse)) - first).astype(np.uint8)
    scale = np.repeat(_wide(blocks, 208), 8, axis=0) * (coarse / parts)
    return codes, scale, scale * first


def _rounded(values: np.ndarray):
    """The nearest of 256 levels between each group's smallest and largest weight."""
    groups = values.reshape(-1, GROUP)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    scale = (high - low) / np.float32(255)
    codes = np.rint((groups - low) * np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0))
    return np.clip(np.nan_to_num(codes), 0, 255).astype(np.uint8), scale, low


def _pack_fives(codes: np.ndarray) -> np.ndarray:
    """8 codes of 5 bits to 5 bytes, the first in the lowest bits."""
    eight = np.ascontiguousarray(codes).view(np.uint64).reshape(-1)  # one code in each byte
    # Neighbours are pushed together: pairs to 10 bits, pairs of pairs to 20, and those to 40.
    pairs = (eight & 0x001F001F001F001F) | ((eight & 0x1F001F001F001F00) >> np.uint64(3))
    fours = (pairs & 0x000003FF000003FF) | ((pairs & 0x03FF000003FF0000) >> np.uint64(6))
    whole = (fours & 0x00000000000FFFFF) | ((fours & 0x000FFFFF00000000) >> np.uint64(12))
    return np.ascontiguousarray(whole.view(np.uint8).reshape(-1, 8)[:, :5])


def _mxfp4(tensor: Tensor, data: np.ndarray) -> Packed:
    """MXFP4's blocks are an exponent and 16 bytes: the codes mean the same in MLX, only their order differs."""
    blocks = np.ascontiguousarray(data).reshape(-1, 17)
    shape = tensor.shape[:-1]
    weight = _nibbles(blocks, 1).reshape(*shape, -1).view(np.uint32)
    return Packed(weight, blocks[:, 0].reshape(*shape, -1), None, 4, "mxfp4")


Repacker = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
KINDS: dict[str, tuple[int, Repacker]] = {
    "Q4_0": (4, _q4_0), "Q4_1": (4, _q4_1), "Q5_0": (5, _q5_0), "Q5_1": (5, _q5_1), "Q8_0": (8, _q8_0),
    "Q4_K": (4, _q4_k), "Q5_K": (5, _q5_k), "IQ4_NL": (8, _iq4_nl), "IQ4_XS": (8, _iq4_xs),
    "Q6_K": (8, _q6_k),
}
PACKERS: dict[int, Callable[[np.ndarray], np.ndarray]] = {4: lambda codes: codes, 5: _pack_fives}
