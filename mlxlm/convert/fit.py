"""Scales and offsets fitted to each group by least squares, where MLX takes the group's smallest and largest numbers.

The codes that a grid gives are kept and the best grid for those codes is solved for; of several grids to start from,
the one with the least error wins (the idea of llama.cpp's K types). MLX's own grid is among those that are compared at
the end, so that no group's weighted error is above what MLX would leave. Same format, same size, smaller error.
"""

from __future__ import annotations

import mlx.core as mx

from ..checkpoint.bits import pack
from ..piecewise import by_rows

STARTS = (0.0, -0.4, 0.4, -0.9, 0.9, -1.5)
"""How many steps more (or, below zero, fewer) than the format has the group's range is first divided into."""
NUMBERS = 1 << 18
"""Numbers that are fitted at a time: few enough for what is between two passes to stay in a core's cache."""
SUMMED = 1 << 22
"""Numbers whose squares are summed at a time."""
LEAST = 0.01
"""The importance below which no input falls, beside the mean of all: a text doesn't show everything."""


def fitted(w: mx.array, bits: int, group_size: int,
           importance: mx.array | None = None) -> tuple[mx.array, mx.array, mx.array]:
    """(packed codes, scales, biases) of ``w`` (..., width), as `mx.quantize` lays them out for mode affine.

    ``importance`` (width,) is how much an error at each input counts, such as its mean square; without it large
    numbers count more than small ones. Scales and biases have w's dtype; the codes are the nearest with them so
    rounded.
    """
    counts = None if importance is None else _bounded(importance).reshape(1, -1, group_size)
    packed, scales, biases = by_rows(w, lambda rows: _part(rows, bits, group_size, counts), NUMBERS)
    return packed, scales, biases


def evened(w: mx.array) -> mx.array:
    """The importance of inputs when all that is known is ``w`` (..., width): each is taken to add as much to the
    result as any other, so inputs that all rows give small weights are large ones."""
    flat, step = w.reshape(-1, w.shape[-1]), max(1, SUMMED // w.shape[-1])
    square = mx.zeros(w.shape[-1])
    for at in range(0, flat.shape[0], step):
        square = square + flat[at:at + step].astype(mx.float32).square().sum(0)
    square = square / flat.shape[0]
    return 1 / mx.maximum(square, 1e-6 * square.mean() + 1e-30)


def _bounded(importance: mx.array) -> mx.array:
    importance = importance.astype(mx.float32)
    mean = importance.mean()
    known = mx.isfinite(mean) & (mean > 0)
    return mx.where(known, importance / mx.where(known, mean, 1.0), 1.0) + LEAST


def _part(w: mx.array, bits: int, group_size: int, weight: mx.array | None) -> tuple[mx.array, mx.array, mx.array]:
    x = w.astype(mx.float32).reshape(w.shape[0], -1, group_size)
    if weight is None:
        square = x * x
        weight = square + square.mean(-1, keepdims=True)
    top = float(2**bits - 1)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    grids = [_least_squares(x - low, high - low, low, weight, top), _of_edges(low, high, top)]
    best, least = None, None
    for scale, bias in grids:
        grid = scale.astype(w.dtype), bias.astype(w.dtype)
        codes = _codes(x, *grid, top)
        error = (weight * (codes * grid[0].astype(mx.float32) + grid[1].astype(mx.float32) - x).square()).sum(
            -1, keepdims=True)
        if best is None or least is None:
            best, least = (codes, *grid), error
        else:  # not `error < least`: a grid that isn't finite must lose
            best = tuple(mx.where(least <= error, a, b) for a, b in zip(best, (codes, *grid), strict=True))
    codes, scale, bias = best  # type: ignore[misc]
    return pack(codes.astype(mx.uint32).reshape(w.shape[0], -1), bits), scale.squeeze(-1), bias.squeeze(-1)


def _codes(x: mx.array, scale: mx.array, bias: mx.array, top: float) -> mx.array:
    step = scale.astype(mx.float32)
    safe = mx.where(step == 0, 1.0, step)  # a group of one value is its offset alone
    return mx.clip(mx.round((x - bias.astype(mx.float32)) / safe), 0, top)


def _least_squares(y: mx.array, span: mx.array, low: mx.array, weight: mx.array,
                   top: float) -> tuple[mx.array, mx.array]:
    """Scale and offset of the start that leaves the least, its codes then taken once more; ``y`` is x less ``low``."""
    weighed = weight * y
    sums = weight.sum(-1, keepdims=True), weighed.sum(-1, keepdims=True)
    most = mx.maximum(span, 1e-30)
    scale, offset, gained = most / top, mx.zeros_like(low), mx.full(low.shape, -mx.inf)
    for start in STARTS:
        codes = mx.minimum(mx.round(y * ((top + start) / most)), top)
        found = _solved(codes, weight, weighed, sums)
        better = found[2] > gained
        scale, offset, gained = (mx.where(better, new, old) for new, old in
                                 zip(found, (scale, offset, gained), strict=True))
    codes = mx.clip(mx.round((y - offset) / scale), 0, top)
    found = _solved(codes, weight, weighed, sums)
    better = found[2] > gained
    return mx.where(better, found[0], scale), mx.where(better, found[1], offset) + low


def _solved(codes: mx.array, weight: mx.array, weighed: mx.array,
            sums: tuple[mx.array, mx.array]) -> tuple[mx.array, mx.array, mx.array]:
    """Scale, offset and what they take off the weighted squares, for given codes; -inf where nothing can be solved."""
    total, mean = sums
    counted = weight * codes
    first, second = counted.sum(-1, keepdims=True), (counted * codes).sum(-1, keepdims=True)
    cross = (weighed * codes).sum(-1, keepdims=True)
    determinant = total * second - first * first
    good = determinant > 1e-6 * total * second
    safe = mx.where(good, determinant, 1.0)
    scale, offset = (total * cross - first * mean) / safe, (second * mean - first * cross) / safe
    return scale, offset, mx.where(good & (scale > 0), scale * cross + offset * mean, -mx.inf)


def _of_edges(low: mx.array, high: mx.array, top: float) -> tuple[mx.array, mx.array]:
    """MLX's own grid: the larger edge and zero lie on it."""
    step = mx.maximum((high - low) / top, 1e-7)
    edge, step = mx.where(mx.abs(low) > mx.abs(high), low, high), mx.where(mx.abs(low) > mx.abs(high), step, -step)
    count = mx.round(edge / step)
    on = count != 0
    return mx.where(on, edge / mx.where(on, count, 1.0), step), mx.where(on, edge, 0.0)
