"""Scales and offsets fitted to each group by least squares, where MLX takes the group's smallest and largest numbers.

The codes that a grid gives are kept and the best grid for those codes is solved for; of several grids to start from,
the one with the least error wins (the idea of llama.cpp's K types). Same format, same size, smaller error.
"""

from __future__ import annotations

import mlx.core as mx

from ..checkpoint.bits import pack
from ..piecewise import by_rows

STARTS = (0.0, -0.3, 0.3, -0.6, 0.6, -0.9, 0.9, -1.2, 1.2, -1.6, -2.0, -2.5)
"""How many steps more (or, below zero, fewer) than the format has the group's range is first divided into."""
ROWS = 1 << 21
"""Numbers that are fitted at a time: what bounds the memory."""


def fitted(w: mx.array, bits: int, group_size: int) -> tuple[mx.array, mx.array, mx.array]:
    """(packed codes, scales, biases) of ``w`` (..., width), as `mx.quantize` lays them out for mode affine.

    Scales and biases have w's dtype, and the codes are those that are nearest with them so rounded.
    """
    packed, scales, biases = by_rows(w, lambda rows: _part(rows, bits, group_size), ROWS)
    return packed, scales, biases


def _part(w: mx.array, bits: int, group_size: int) -> tuple[mx.array, mx.array, mx.array]:
    groups = w.astype(mx.float32).reshape(w.shape[0], -1, group_size)
    top = float(2**bits - 1)
    weight = groups * groups + mx.mean(groups * groups, -1, keepdims=True)  # large numbers matter more
    total, mean = weight.sum(-1, keepdims=True), (weight * groups).sum(-1, keepdims=True)
    low, span = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True) - groups.min(-1, keepdims=True)
    least, best_scale, best_bias = mx.full(span.shape, mx.inf), span, low
    for start in STARTS:
        scale = mx.maximum(span, 1e-30) / (top + start)
        codes = mx.clip(mx.round((groups - low) / scale), 0, top)
        scale, bias = _solved(codes, groups, weight, total, mean, scale, low)
        error = (weight * (codes * scale + bias - groups) ** 2).sum(-1, keepdims=True)
        better = error < least
        least, best_scale = mx.where(better, error, least), mx.where(better, scale, best_scale)
        best_bias = mx.where(better, bias, best_bias)
    scale, bias = best_scale.astype(w.dtype), best_bias.astype(w.dtype)
    step = scale.astype(mx.float32)
    safe = mx.where(step == 0, 1.0, step)  # a group of one value is its offset alone
    codes = mx.clip(mx.round((groups - bias.astype(mx.float32)) / safe), 0, top)
    return pack(codes.astype(mx.uint32).reshape(w.shape[0], -1), bits), scale.squeeze(-1), bias.squeeze(-1)


def _solved(codes, groups, weight, total, mean, scale, low) -> tuple[mx.array, mx.array]:
    """The scale and offset with the least weighted squares for given codes; those they came from where it has none."""
    first = (weight * codes).sum(-1, keepdims=True)
    second = (weight * codes * codes).sum(-1, keepdims=True)
    cross = (weight * codes * groups).sum(-1, keepdims=True)
    determinant = total * second - first * first
    good = determinant > 1e-9 * total * second
    safe = mx.where(good, determinant, 1.0)
    solved = (total * cross - first * mean) / safe
    good = good & (solved > 0)
    return mx.where(good, solved, scale), mx.where(good, (second * mean - first * cross) / safe, low)
