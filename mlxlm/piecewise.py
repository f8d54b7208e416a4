"""Large tensors made a part at a time in room made beforehand, so that parts and whole never stand in memory together.

All is lazy. `mx.stack` and `mx.concatenate` need every part before they begin; here each part is let go once it is in
its place.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

Parts = tuple[mx.array, ...]


def stack(parts: Sequence[mx.array]) -> mx.array:
    """The parts along a new first axis, as `mx.stack` has them."""
    if len(parts) == 1:
        return parts[0][None]
    dtype = mx.concatenate([mx.zeros((1,), part.dtype) for part in parts]).dtype
    whole = mx.zeros((len(parts), *parts[0].shape), dtype)
    for i, part in enumerate(parts):
        whole[i] = part.astype(dtype)
    return whole


def by_rows(w: mx.array, change: Callable[[mx.array], Parts], most: int) -> Parts:
    """``change(w)`` for a function of each row of ``w`` (..., width) by itself, at most ``most`` numbers at a time.

    ``change`` takes (rows, width) and gives arrays of as many rows; these come back with all of w's leading axes.
    """
    if not w.size:
        return change(w)
    *lead, rows, width = w.shape
    step = max(1, most // max(width, 1))
    if len(lead) > 1:
        w = w.reshape(-1, rows, width)
    starts = [(i, at) for i in range(w.shape[0] if lead else 1) for at in range(0, rows, step)]
    wholes: list[mx.array] = []
    for i, at in starts:
        made = change(w[i, at:at + step] if lead else w[at:at + step])
        if len(starts) == 1:
            return tuple(part.reshape(*lead, rows, -1) for part in made)
        if not wholes:
            wholes = [mx.zeros((*w.shape[:-1], part.shape[-1]), part.dtype) for part in made]
        for whole, part in zip(wholes, made, strict=True):
            whole[(i, slice(at, at + step)) if lead else slice(at, at + step)] = part
    return tuple(whole.reshape(*lead, rows, -1) for whole in wholes)
