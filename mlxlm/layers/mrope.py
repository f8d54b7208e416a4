"""Rotary positions in three directions (M-RoPE): time, height and width each turn their share of a head's pairs.

Text has the same position in all three, so that a pass without images is a plain rope.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..errors import ConfigError
from .rope import RoPE


def sections(sizes: Sequence[int], pairs: int) -> list[int]:
    """The direction of each pair where the directions' shares lie one after the other: t…t h…h w…w (and again)."""
    axes = [i % 3 for i, size in enumerate(sizes) for _ in range(size)]
    if len(axes) != pairs:
        raise ConfigError(
            "mrope_section doesn't share out the pairs that turn",
            where="config.json",
            found=list(sizes),
            expected=f"numbers that add up to {pairs}",
        )
    return axes


def interleaved_sections(sizes: Sequence[int], pairs: int) -> list[int]:
    """The direction of each pair where they take turns: t h w t h w …, and t where the others' shares are used up."""
    axes = [0] * pairs
    for axis in (1, 2):
        for i in range(axis, min(3 * sizes[axis], pairs), 3):
            axes[i] = axis
    return axes


class MRoPE(RoPE):
    """A rope whose ``step.positions`` may be (3, B, L); ``axes`` names the direction of each of its pairs."""

    def __init__(self, plan, kind: str, interleaved: bool, axes: Sequence[int]):
        super().__init__(plan, kind, interleaved)
        self._axes = np.array(axes)

    def __call__(self, x: mx.array, step) -> mx.array:
        positions = step.positions
        if not isinstance(positions, mx.array) or positions.ndim < 3:
            return super().__call__(x, step)
        if id(self) not in step.shared:  # all layers of a pass turn alike
            step.shared[id(self)] = self._angles(positions, step.end)
        cos, sin = step.shared[id(self)]
        turned, rest = x[..., : self._plan.dims].astype(mx.float32), x[..., self._plan.dims :]
        out = (self._pairs(turned, cos, sin)).astype(x.dtype)
        return out if not rest.shape[-1] else mx.concatenate([out, rest], axis=-1)

    def _angles(self, positions: mx.array, end: int) -> tuple[mx.array, mx.array]:
        periods, gain = self.frequencies(end)
        own = positions.astype(mx.float32)[mx.array(self._axes)]  # (pairs, B, L)
        angles = mx.moveaxis(own, 0, -1)[:, None] / periods
        return mx.cos(angles) * gain, mx.sin(angles) * gain

    def _pairs(self, x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        if self._interleaved:
            a, b = x[..., 0::2], x[..., 1::2]
            return mx.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).flatten(-2)
        a, b = mx.split(x, 2, axis=-1)
        return mx.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
