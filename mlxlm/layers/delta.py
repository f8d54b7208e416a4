"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024): linear attention whose memory fades and is corrected."""

import mlx.core as mx
import mlx.nn as nn

from ..cache import RecurrentCache
from ..kernels import ops
from .mamba import causal_conv, parts


class GatedRMSNorm(nn.RMSNorm):
    """norm(x) * silu(gate), the product in float32."""

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        y = ops.rms_norm(x, self.weight, self.eps).astype(mx.float32)
        return ops.swiglu(gate.astype(mx.float32), y).astype(gate.dtype)


def unit(x: mx.array) -> mx.array:
    """x / |x| over the last axis, in float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


class GatedDeltaNet(nn.Module):
    """Projections, a causal convolution, the gated delta rule, a gated norm; ``project`` is a seam for fused inputs."""

    def __init__(
        self, dim: int, *, k_heads: int, v_heads: int, k_dim: int, v_dim: int, conv: int, eps: float, act=ops.silu
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
        return RecurrentCache(2, layout={1: (0, 1, 3, 2)})

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        valid = step.valid()
        qkv, z, b, a = self.project(x)
        q, k, v = mx.split(self._act(causal_conv(self.conv1d, qkv, cache, 0, valid)), self._cuts, axis=-1)
        beta = mx.sigmoid(b.astype(mx.float32))
        g = -mx.exp(self.A_log.astype(mx.float32)) * nn.softplus(a.astype(mx.float32) + self.dt_bias)
        if valid is not None:  # nothing fades and nothing is written
            beta, g = (mx.where(valid[..., None], t, 0.0) for t in (beta, g))
        q, k = (mx.repeat(unit(parts(t, self.k_heads)), self.v_heads // self.k_heads, axis=2) for t in (q, k))
        y, cache[1] = ops.delta_scan(q * self.k_dim**-0.5, k, parts(v, self.v_heads), g, beta, cache[1])
        cache.advance(x.shape[1])
        return self.out_proj(self.norm(y, parts(z, self.v_heads)).flatten(-2))
