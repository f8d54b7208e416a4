"""Writers of other packages' quantized layouts in plain numpy, from the formats' own definitions, and what they hold.

Each takes float weights (out, in) and gives (tensors by their last name, the weights that these stand for).
"""

import json

import numpy as np

NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], np.float32)


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (rows, n) as a stream of bits, the lowest first, in int32 words (rows, n * bits / 32)."""
    expanded = (codes[..., None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)) & 1
    flat = expanded.reshape(codes.shape[0], -1).astype(np.uint8)
    return np.packbits(flat, axis=-1, bitorder="little").view(np.int32)


def grid(w: np.ndarray, bits: int, group: np.ndarray):
    """(codes (out, in), scales (out, groups) float16, zeros (out, groups)) by minimum and maximum of each group."""
    count = group.max() + 1
    scales, zeros = np.empty((len(w), count), np.float16), np.empty((len(w), count), np.int64)
    codes = np.empty(w.shape, np.int64)
    for g in range(count):
        part = w[:, group == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scales[:, g] = np.maximum((high - low) / (2**bits - 1), 1e-4)
        zeros[:, g] = np.clip(np.round(-low / scales[:, g]), 1, 2**bits - 1)
        codes[:, group == g] = np.clip(np.round(part / scales[:, g:g + 1]) + zeros[:, g:g + 1], 0, 2**bits - 1)
    return codes, scales, zeros


def held(codes, scales, zeros, group):
    return scales.astype(np.float64)[:, group] * (codes - zeros[:, group])


def gptq(w, bits, size, order=None, v2=False):
    group = np.arange(w.shape[1]) // size
    if order is not None:
        group = group[order]
    codes, scales, zeros = grid(w, bits, group)
    tensors = {"qweight": np.ascontiguousarray(stream(codes, bits).T), "scales": np.ascontiguousarray(scales.T),
               "qzeros": stream((zeros - (0 if v2 else 1)).T, bits), "g_idx": group.astype(np.int32)}
    return tensors, held(codes, scales, zeros, group)


def awq(w, bits, size):
    group = np.arange(w.shape[1]) // size
    codes, scales, zeros = grid(w, 4, group)

    def columns(rows):
        # A word's nibbles, from the lowest: columns 0, 2, 4, 6, 1, 3, 5, 7.
        eight = rows.reshape(rows.shape[0], -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]].astype(np.uint64)
        return (eight << (np.arange(8, dtype=np.uint64) * np.uint64(4))).sum(-1).astype(np.uint32).view(np.int32)

    return {"qweight": columns(codes.T), "qzeros": columns(zeros.T),
            "scales": np.ascontiguousarray(scales.T)}, held(codes, scales, zeros, group)


def compressed(w, bits, size, symmetric=True):
    group = np.arange(w.shape[1]) // size
    codes, scales, zeros = grid(w, bits, group)
    half = 2 ** (bits - 1)
    if symmetric:
        scales = np.stack([np.abs(w[:, group == g]).max(1) / (half - 1) for g in range(group.max() + 1)], 1)
        scales = np.maximum(scales, 1e-4).astype(np.float16)
        codes, zeros = np.clip(np.round(w / scales[:, group]), -half, half - 1).astype(np.int64) + half, np.full(
            scales.shape, half)
    tensors = {"weight_packed": stream(codes, bits), "weight_scale": scales,
               "weight_shape": np.array(w.shape, np.int64)}
    if not symmetric:
        tensors["weight_zero_point"] = np.ascontiguousarray(stream(zeros.T, bits).T)
    return tensors, held(codes, scales, zeros, group)


def whole_int8(w):
    scales = (np.abs(w).max(1, keepdims=True) / 127).astype(np.float32)
    codes = np.clip(np.round(w / scales), -128, 127).astype(np.int8)
    return {"weight": codes, "weight_scale": scales}, codes.astype(np.float64) * scales


def bnb_int8(w):
    rows = np.abs(w).max(1).astype(np.float32)
    codes = np.round(w * 127 / rows[:, None]).astype(np.int8)
    return {"weight": codes, "SCB": rows}, codes.astype(np.float64) * rows[:, None] / 127


def bnb_nf4(w, block=64, nested=False):
    flat = w.reshape(-1, block)
    absmax = np.abs(flat).max(1).astype(np.float32)
    codes = np.abs(flat[..., None] / absmax[:, None, None] - NF4).argmin(-1).astype(np.uint8).reshape(-1)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(w.shape)}
    tensors = {"weight": (codes[0::2] << 4 | codes[1::2])[:, None], "weight.quant_map": NF4}
    if nested:
        offset, table = float(absmax.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
        inner = absmax - offset
        outer = np.array([np.abs(inner[i:i + 256]).max() for i in range(0, len(inner), 256)], np.float32)
        quantized = np.abs((inner / outer.repeat(256)[:len(inner)])[:, None] - table).argmin(1).astype(np.uint8)
        absmax = table[quantized] * outer.repeat(256)[:len(inner)] + np.float32(offset)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        tensors |= {"weight.absmax": quantized, "weight.nested_absmax": outer, "weight.nested_quant_map": table}
    else:
        tensors["weight.absmax"] = absmax
    tensors["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return tensors, (NF4[codes].reshape(-1, block) * absmax[:, None].astype(np.float64)).reshape(w.shape)


def float8(w, block=None, name="weight_scale_inv"):
    """F8_E4M3 with a scale a block, or a row where ``block`` is None; torch does the rounding to float8."""
    import torch

    out, width = w.shape
    rows, columns = block or (1, width)
    counts = (-(-out // rows), -(-width // columns))
    scales = np.empty(counts, np.float32)
    for i in range(counts[0]):
        for j in range(counts[1]):
            scales[i, j] = np.abs(w[i * rows:(i + 1) * rows, j * columns:(j + 1) * columns]).max() / 448
    full = scales.repeat(rows, 0)[:out].repeat(columns, 1)[:, :width]
    eight = torch.tensor(w / full).to(torch.float8_e4m3fn)
    return {"weight": eight, name: scales}, eight.float().numpy().astype(np.float64) * full


FOLDS = {8: ("8bit_u8", 8, 1), 6: ("8bit_u8", 8, 1), 5: ("8bit_u8", 8, 1), 4: ("4bit_u8", 4, 2), 3: ("3bit_32", 3, 10),
         2: ("2bit_u8", 2, 4), 1: ("1bit_u8", 1, 8)}


def hqq(w, bits, size, axis=1, as_float=False):
    """Codes of groups as rows (axis 1) or columns (axis 0), folded: a word's highest bits hold the first part."""
    rows = w.reshape(-1, size) if axis else w.reshape(size, -1)
    low, high = rows.min(axis, keepdims=True), rows.max(axis, keepdims=True)
    scale = np.maximum((high - low) / (2**bits - 1), 1e-4).astype(np.float16)
    zero = (-low / scale).astype(np.float16)
    codes = np.clip(np.round(rows / scale + zero), 0, 2**bits - 1).astype(np.uint32)
    packing, width, parts = FOLDS[bits]
    padded = np.zeros((-(-len(codes) // parts) * parts, codes.shape[1]), np.uint32)
    padded[:len(codes)] = codes
    words = np.zeros((len(padded) // parts, codes.shape[1]), np.uint32)
    for k, part in enumerate(padded.reshape(parts, -1, codes.shape[1])):
        words |= part << np.uint32(width * (parts - 1 - k))
    words = words.astype(np.int32) if bits == 3 else words.astype(np.uint8)
    said = {"nbits": np.array(bits, np.int32), "group_size": np.array(size, np.int32), "axis": np.array(axis, np.int32),
            "shape": np.array(w.shape, np.int64), "packing": np.frombuffer(packing.encode(), np.uint8),
            "view_as_float": np.array(as_float, np.uint8), "encoded_state_dict": np.array(1, np.uint8),
            "unpack_view_dtype": np.frombuffer(b"torch.uint8", np.uint8), "stores_quant_config": np.array(1, np.uint8)}
    exact = (codes.astype(np.float64) - zero) * scale
    return {"W_q": words.view(np.float16) if as_float else words, "scale": scale, "zero": zero,
            **said}, exact.reshape(w.shape)
