"""The first Mamba mixer (Gu and Dao 2023): a decay for every channel and state."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..cache import RecurrentCache
from ..kernels import ops
from .mamba import causal_conv
from .mlp import swiglu


class Mamba(nn.Module):
    """in_proj, causal conv, selective scan, gate, out_proj. ``norms`` are for dt, B and C, where a model has them."""

    def __init__(
        self,
        dim: int,
        inner: int,
        *,
        state: int,
        rank: int,
        conv: int,
        bias: bool = False,
        conv_bias: bool = True,
        act=ops.silu,
        norms: tuple[Callable, Callable, Callable] | None = None,
    ):
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(inner, inner, conv, groups=inner, bias=conv_bias)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=True)
        self.A_log = mx.zeros((inner, state))
        self.D = mx.ones((inner,))
        self.out_proj = nn.Linear(inner, dim, bias=bias)
        if norms is not None:
            self.dt_layernorm, self.b_layernorm, self.c_layernorm = norms
        self._act, self._cuts, self._normed = act, [rank, rank + state], norms is not None

    def make_cache(self) -> RecurrentCache:
        return RecurrentCache(2)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        valid = step.valid()
        xs, gate = mx.split(self.in_proj(x), 2, axis=-1)
        xs = self._act(causal_conv(self.conv1d, xs, cache, 0, valid))
        dt, b, c = mx.split(self.x_proj(xs), self._cuts, axis=-1)
        if self._normed:
            dt, b, c = self.dt_layernorm(dt), self.b_layernorm(b), self.c_layernorm(c)
        dt = nn.softplus(self.dt_proj(dt).astype(mx.float32))
        if valid is not None:
            dt = mx.where(valid[..., None], dt, 0.0)  # no step in time: padding leaves the state as it is
        y, cache[1] = ops.selective_scan(xs, dt, -mx.exp(self.A_log.astype(mx.float32)), b, c, cache[1])
        cache.advance(x.shape[1])
        y = (y + self.D.astype(mx.float32) * xs.astype(mx.float32)).astype(x.dtype)
        return self.out_proj(self._gated(gate, y))

    def _gated(self, gate: mx.array, y: mx.array) -> mx.array:
        return swiglu(gate, y) if self._act is ops.silu else self._act(gate) * y
