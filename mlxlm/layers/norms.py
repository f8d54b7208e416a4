"""The norms, on the kernels' operations; those with an offset or a shape of their own beside the plain ones."""

import mlx.core as mx
import mlx.nn as nn

from ..kernels import ops


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight, over the last axis."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, self.weight, self.eps)


class BareRMSNorm(nn.Module):
    """x / rms(x), without a weight; ``dims`` is not looked at."""

    def __init__(self, dims: int, eps: float):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, None, self.eps)


class UnitOffsetRMSNorm(nn.RMSNorm):
    """An RMS norm whose stored weight is the distance from one."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, 1.0 + self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / std * weight + bias, over the last axis."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.layer_norm(x, self.get("weight"), self.get("bias"), self.eps)


class FlatRMSNorm(RMSNorm):
    """Normalises all heads of (..., heads, head_dim) as one vector."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x.flatten(-2)).reshape(x.shape)


class HeadLayerNorm(nn.Module):
    """A LayerNorm without bias and with a weight of its own for each head of (..., heads, head_dim)."""

    def __init__(self, heads: int, head_dim: int, eps: float):
        super().__init__()
        self.weight = mx.ones((heads, head_dim))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return self.weight * ops.layer_norm(x, None, None, self.eps)
