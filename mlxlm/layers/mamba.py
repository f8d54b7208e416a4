"""The Mamba 2 mixer and its scan, chunk by chunk (Dao and Gu 2024, section 6): any length, any chunking, one result."""

import mlx.core as mx
import mlx.nn as nn

from ..cache import RecurrentCache
from ..kernels import ops
from .mlp import swiglu

CHUNK = 64  # tokens whose pairwise decays are worked out at once


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
    return conv(seen)


def scan(x, dt, a, b, c, state):
    """The state space recurrence h = exp(dt·a)·h + dt·x⊗b, y = h·c, in float32.

    x (B, L, heads, dim), dt (B, L, heads), a (heads,), b and c (B, L, groups, n), state (B, heads, dim, n) or None.
    Returns y like x, and the last state.
    """
    batch, length, heads, dim = x.shape
    groups, n = b.shape[2:]
    if state is None:
        state = mx.zeros((batch, heads, dim, n), mx.float32)
    x, b, c, dt = (t.astype(mx.float32) for t in (x, b, c, dt))
    repeat = heads // groups
    outs = []
    for start in range(0, length, CHUNK):
        piece = slice(start, min(start + CHUNK, length))
        bh, ch = (mx.repeat(t[:, piece], repeat, axis=2).swapaxes(1, 2) for t in (b, c))  # (B, heads, l, n)
        y, state = _scan_chunk(x[:, piece].swapaxes(1, 2), dt[:, piece].swapaxes(1, 2), a, bh, ch, state)
        outs.append(y.swapaxes(1, 2))
    return (outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=1)), state


def _scan_chunk(x, dt, a, b, c, state):
    """One chunk with heads in front: x (B, heads, l, dim), dt (B, heads, l), b and c (B, heads, l, n)."""
    length = x.shape[2]
    total = mx.cumsum(dt * a[:, None], axis=-1)  # log of the decay from the chunk's start to after each token
    dtx = dt[..., None] * x
    y = mx.exp(total)[..., None] * (c @ state.swapaxes(-1, -2))
    if length == 1:
        new = mx.exp(total)[..., None] * state + dtx.swapaxes(-1, -2) @ b
        return y + (c * b).sum(-1, keepdims=True) * dtx, new
    between = total[..., :, None] - total[..., None, :]  # never above 0 where it counts: no overflow
    earlier = mx.arange(length)[:, None] >= mx.arange(length)
    decay = mx.exp(mx.where(earlier, between, -mx.inf))
    y = y + ((c @ b.swapaxes(-1, -2)) * decay) @ dtx
    left = mx.exp(total[..., -1:] - total)[..., None]
    new = mx.exp(total[..., -1])[..., None, None] * state + (dtx * left).swapaxes(-1, -2) @ b
    return y, new


class Mamba2(nn.Module):
    """in_proj, causal conv, selective scan, gated norm, out_proj."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        state: int,
        groups: int,
        conv: int,
        norm=None,
        bias: bool = False,
        out_bias: bool | None = None,
        conv_bias: bool = True,
        act=nn.silu,
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
            self.norm = norm
        self.out_proj = nn.Linear(inner, dim, bias=bias if out_bias is None else out_bias)
        self.heads, self.groups, self.dt_limit = heads, groups, dt_limit
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
        y, cache[1] = scan(
            xs, dt, -mx.exp(self.A_log.astype(mx.float32)), parts(b, self.groups), parts(c, self.groups), cache[1]
        )
        cache.advance(x.shape[1])
        y = (y + self.D.astype(mx.float32)[:, None] * xs.astype(mx.float32)).flatten(-2).astype(x.dtype)
        return self.out_proj(self.norm(y, gate) if "norm" in self else swiglu(gate, y))
