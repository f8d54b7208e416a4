"""The Mamba 2 mixer (Dao and Gu 2024) around the scan of ``kernels.ops``: any length, any chunking, one result."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..cache import RecurrentCache
from ..kernels import ops
from .mlp import swiglu


def parts(x: mx.array, n: int) -> mx.array:
    """(..., n * size) to (..., n, size)."""
    return mx.unflatten(x, -1, (n, -1))


class GroupedGatedNorm(nn.Module):
    """norm(silu(gate) * x), each group by itself."""

    def __init__(self, dim: int, eps: float, groups: int = 1):
        super().__init__()
        self.weight = mx.ones((dim,))
        self.eps, self.groups = eps, groups

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        x = parts(swiglu(gate, x), self.groups)
        return self.weight * ops.rms_norm(x, None, self.eps).flatten(-2)


def causal_conv(conv: nn.Conv1d, x: mx.array, cache: RecurrentCache, slot: int, valid: mx.array | None) -> mx.array:
    """A depthwise causal convolution over (B, L, channels); the cache keeps the last inputs; padding is zeros."""
    if valid is not None:
        x = mx.where(valid[..., None], x, mx.array(0, x.dtype))
    keep = conv.weight.shape[1] - 1
    past = cache[slot]
    if past is None:
        past = mx.zeros((x.shape[0], keep, x.shape[2]), x.dtype)
    seen = mx.concatenate([past, x], axis=1)
    cache[slot] = seen[:, seen.shape[1] - keep :]
    return ops.causal_conv(seen, conv.weight, conv.get("bias"))


class Mamba2(nn.Module):
    """in_proj, causal conv, selective scan, gated norm of ``norm(inner, eps, groups)`` or none, out_proj."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        state: int,
        groups: int,
        conv: int,
        eps: float,
        norm: Callable[[int, float, int], nn.Module] | None = GroupedGatedNorm,
        bias: bool = False,
        out_bias: bool | None = None,
        conv_bias: bool = True,
        act=ops.silu,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
    ):
        super().__init__()
        inner = heads * head_dim
        channels = inner + 2 * groups * state
        self.in_proj = nn.Linear(dim, inner + channels + heads, bias=bias)
        self.conv1d = nn.Conv1d(channels, channels, conv, groups=channels, bias=conv_bias)
        self.dt_bias = mx.ones((heads,))
        self.A_log = mx.log(mx.arange(1, heads + 1, dtype=mx.float32))
        self.D = mx.ones((heads,))
        if norm is not None:
            self.norm = norm(inner, eps, groups)
        self.out_proj = nn.Linear(inner, dim, bias=bias if out_bias is None else out_bias)
        self.heads, self.head_dim, self.groups, self.state_size = heads, head_dim, groups, state
        self.dt_limit = dt_limit
        self._act, self._cuts = act, ([inner, inner + channels], [inner, inner + groups * state])

    def make_cache(self) -> RecurrentCache:
        return RecurrentCache(2)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        valid = step.valid()
        gate, xbc, dt = mx.split(self.in_proj(x), self._cuts[0], axis=-1)
        xbc = self._act(causal_conv(self.conv1d, xbc, cache, 0, valid))
        xs, b, c = mx.split(xbc, self._cuts[1], axis=-1)
        dt = mx.clip(nn.softplus(dt.astype(mx.float32) + self.dt_bias), *self.dt_limit)
        if valid is not None:
            dt = mx.where(valid[..., None], dt, 0.0)  # no step in time: padding leaves the state as it is
        xs = parts(xs, self.heads)
        y, cache[1] = ops.ssm_scan(
            xs, dt, -mx.exp(self.A_log.astype(mx.float32)), parts(b, self.groups), parts(c, self.groups), cache[1]
        )
        cache.advance(x.shape[1])
        y = (y + self.D.astype(mx.float32)[:, None] * xs.astype(mx.float32)).flatten(-2).astype(x.dtype)
        return self.out_proj(self.norm(y, gate) if "norm" in self else swiglu(gate, y))
