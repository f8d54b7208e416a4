"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024): linear attention whose memory fades and is corrected."""

import mlx.core as mx
import mlx.nn as nn

from ..cache import RecurrentCache
from ..kernels import ops
from .mamba import CHUNK, causal_conv, parts


class GatedRMSNorm(nn.RMSNorm):
    """norm(x) * silu(gate), the product in float32."""

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        y = ops.rms_norm(x, self.weight, self.eps).astype(mx.float32)
        return ops.swiglu(gate.astype(mx.float32), y).astype(gate.dtype)


def unit(x: mx.array) -> mx.array:
    """x / |x| over the last axis, in float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def delta_scan(q, k, v, g, beta, state):
    """The gated delta rule S = exp(g)·S, S += k ⊗ beta·(v - S·k), y = S·q, in float32.

    q and k (B, L, heads, k_dim), v (B, L, heads, v_dim), g and beta (B, L, heads), state (B, heads, k_dim, v_dim) or
    None. Returns y like v, and the last state.
    """
    q, k, v, g, beta = (t.astype(mx.float32).swapaxes(1, 2) for t in (q, k, v, g, beta))  # heads in front
    if state is None:
        state = mx.zeros((*k.shape[:2], k.shape[-1], v.shape[-1]), mx.float32)
    outs = []
    for start in range(0, q.shape[2], CHUNK):
        qs, ks, vs, gs, bs = (t[:, :, start : start + CHUNK] for t in (q, k, v, g, beta))
        y, state = _delta_chunk(qs, ks, vs, gs, bs, state)
        outs.append(y)
    return (outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=2)).swapaxes(1, 2), state


def _delta_chunk(q, k, v, g, beta, state):
    """One chunk with heads in front: what each token writes depends on those before it, so a system is solved first."""
    length = q.shape[2]
    total = mx.cumsum(g, axis=-1)  # log of the decay from the chunk's start to after each token
    earlier = mx.arange(length)[:, None] >= mx.arange(length)
    decay = mx.exp(mx.where(earlier, total[..., :, None] - total[..., None, :], -mx.inf))
    fade = mx.exp(total)[..., None]
    written = beta[..., None] * (v - (k * fade) @ state)
    if length > 1:
        written = _unit_lower_inverse(mx.tril(beta[..., None] * (k @ k.swapaxes(-1, -2)) * decay, -1)) @ written
    y = (q * fade) @ state + ((q @ k.swapaxes(-1, -2)) * decay) @ written
    left = mx.exp(total[..., -1:] - total)[..., None]
    return y, fade[..., -1:, :] * state + (k * left).swapaxes(-1, -2) @ written


def _unit_lower_inverse(lower: mx.array) -> mx.array:
    """(I + lower)⁻¹ for strictly lower triangular matrices (..., n, n).

    Blocks are joined two by two, each pair's inverse from those of its halves, so nothing is subtracted that
    forward substitution would not subtract.
    """
    n = lower.shape[-1]
    inverse = mx.eye(n)
    row, column = mx.arange(n)[:, None], mx.arange(n)
    size = 1
    while size < n:
        joins = (row // (2 * size) == column // (2 * size)) & (row // size != column // size)
        inverse = inverse - inverse @ mx.where(joins, lower, 0.0) @ inverse
        size *= 2
    return inverse


class GatedDeltaNet(nn.Module):
    """Projections, a causal convolution, the gated delta rule, a gated norm; ``project`` is a seam for fused inputs."""

    def __init__(
        self, dim: int, *, k_heads: int, v_heads: int, k_dim: int, v_dim: int, conv: int, eps: float, act=nn.silu
    ):
        super().__init__()
        self.k_heads, self.v_heads, self.k_dim, self.v_dim = k_heads, v_heads, k_dim, v_dim
        keys, values = k_heads * k_dim, v_heads * v_dim
        channels = 2 * keys + values
        self.add_projections(dim, keys, values)
        self.conv1d = nn.Conv1d(channels, channels, conv, groups=channels, bias=False)
        self.dt_bias = mx.ones((v_heads,))
        self.A_log = mx.zeros((v_heads,))
        self.norm = GatedRMSNorm(v_dim, eps)
        self.out_proj = nn.Linear(values, dim, bias=False)
        self._act, self._cuts = act, [keys, 2 * keys]

    def add_projections(self, dim: int, keys: int, values: int) -> None:
        """The input projections, for ``keys`` and ``values`` features in all heads together."""
        self.in_proj_qkv = nn.Linear(dim, 2 * keys + values, bias=False)
        self.in_proj_z = nn.Linear(dim, values, bias=False)
        self.in_proj_b = nn.Linear(dim, self.v_heads, bias=False)
        self.in_proj_a = nn.Linear(dim, self.v_heads, bias=False)

    def project(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """q, k and v side by side (B, L, channels), the gate z (B, L, values), b and a (B, L, v_heads)."""
        return self.in_proj_qkv(x), self.in_proj_z(x), self.in_proj_b(x), self.in_proj_a(x)

    def make_cache(self) -> RecurrentCache:
        return RecurrentCache(2)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        valid = step.valid()
        qkv, z, b, a = self.project(x)
        q, k, v = mx.split(self._act(causal_conv(self.conv1d, qkv, cache, 0, valid)), self._cuts, axis=-1)
        beta = mx.sigmoid(b.astype(mx.float32))
        g = -mx.exp(self.A_log.astype(mx.float32)) * nn.softplus(a.astype(mx.float32) + self.dt_bias)
        if valid is not None:  # nothing fades and nothing is written
            beta, g = (mx.where(valid[..., None], t, 0.0) for t in (beta, g))
        q, k = (mx.repeat(unit(parts(t, self.k_heads)), self.v_heads // self.k_heads, axis=2) for t in (q, k))
        y, cache[1] = delta_scan(q * self.k_dim**-0.5, k, parts(v, self.v_heads), g, beta, cache[1])
        cache.advance(x.shape[1])
        return self.out_proj(self.norm(y, parts(z, self.v_heads)).flatten(-2))
