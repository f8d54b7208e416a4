"""Codes of a few bits in 32-bit words and back, as one stream of bits, the lowest first: MLX's layout, and GPTQ's.

Everything is lazy: whoever loads or converts a checkpoint computes a tensor when its turn comes.
"""

import mlx.core as mx


def pack(codes: mx.array, bits: int) -> mx.array:
    """uint32 codes (..., width), width a multiple of 32, to words (..., width * bits / 32)."""
    many = codes.reshape(*codes.shape[:-1], codes.shape[-1] // 32, 32)
    words = []
    for j in range(bits):
        word = mx.zeros(many.shape[:-1], mx.uint32)
        for k in range(32):
            shift = k * bits - 32 * j
            if -bits < shift < 32:
                code = many[..., k]
                word = word | (code << shift if shift >= 0 else code >> -shift)
        words.append(word)
    return mx.stack(words, -1).reshape(*codes.shape[:-1], codes.shape[-1] // 32 * bits)


def unpack(words: mx.array, bits: int) -> mx.array:
    """32-bit words (..., n) to uint32 codes (..., n * 32 / bits)."""
    words, count = words.view(mx.uint32), words.shape[-1] * 32 // bits
    mask = (1 << bits) - 1
    if 32 % bits == 0:
        shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
        return ((words[..., None] >> shifts) & mask).reshape(*words.shape[:-1], count)
    many = words.reshape(*words.shape[:-1], words.shape[-1] // bits, bits)
    codes = []
    for k in range(32):
        j, shift = divmod(k * bits, 32)
        code = many[..., j] >> shift
        if shift + bits > 32:
            code = code | (many[..., j + 1] << (32 - shift))
        codes.append(code & mask)
    return mx.stack(codes, -1).reshape(*words.shape[:-1], count)
