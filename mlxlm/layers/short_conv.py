"""A gated short convolution (LFM2): linear attention's cheapest cousin, whose memory is the last few tokens."""

import mlx.core as mx
import mlx.nn as nn

from ..cache import RecurrentCache
from .mamba import causal_conv


class ShortConv(nn.Module):
    """out(c * conv(b * x)), where b, c and x come from one projection."""

    def __init__(self, dim: int, width: int, *, bias: bool = False):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, width, groups=dim, bias=bias)
        self.in_proj = nn.Linear(dim, 3 * dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)

    def make_cache(self) -> RecurrentCache:
        return RecurrentCache(1)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        b, c, x = mx.split(self.in_proj(x), 3, axis=-1)
        y = c * causal_conv(self.conv, b * x, cache, 0, step.valid())
        cache.advance(x.shape[1])
        return self.out_proj(y)
