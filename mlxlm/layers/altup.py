"""Gemma 3n's own: AltUp's parallel streams, LAuReL's low-rank residual, and an MLP that keeps only outliers."""

import mlx.core as mx
import mlx.nn as nn

from .norms import RMSNorm


def sparse(gate: mx.array, up: mx.array, *, act, cut: float) -> mx.array:
    """act of what lies above mean + cut deviations, 0 for the rest, times up."""
    bound = gate.mean(-1, keepdims=True) + cut * mx.sqrt(gate.var(-1, keepdims=True))
    return act(mx.maximum(gate - bound, 0)) * up


class AltUp(nn.Module):
    """Alternating updates (Baykal et al. 2023): one stream is worked on, the others are predicted and corrected."""

    def __init__(self, dim: int, streams: int, active: int, eps: float):
        super().__init__()
        n = streams
        self.correct_output_scale = mx.zeros((dim,))
        self.correction_coefs = nn.Linear(n, n, bias=False)
        self.prediction_coefs = nn.Linear(n, n * n, bias=False)
        self.modality_router = nn.Linear(dim, n, bias=False)
        self.router_norm = RMSNorm(dim, eps)
        self.active, self.n, self._scale = active, n, 1 / dim

    def modalities(self, x: mx.array) -> mx.array:
        """(B, L, streams) in (-1, 1)."""
        return mx.tanh(self.modality_router(self.router_norm(x) * self._scale).astype(mx.float32)).astype(x.dtype)

    def predict(self, streams: mx.array) -> mx.array:
        """Streams (streams, B, L, dim) as a layer would leave them, guessed from the active one."""
        coefs = mx.unflatten(self.prediction_coefs(self.modalities(streams[self.active])), -1, (self.n, self.n))
        mixed = streams.transpose(1, 2, 3, 0) @ coefs.swapaxes(-1, -2)
        return mixed.transpose(3, 0, 1, 2) + streams

    def correct(self, predicted: mx.array, worked: mx.array) -> mx.array:
        """The guesses put right by what the layer really made of the active stream."""
        coefs = (self.correction_coefs(self.modalities(worked)) + 1.0).transpose(2, 0, 1)[..., None]
        return predicted + coefs * (worked - predicted[self.active])


class Laurel(nn.Module):
    """x + norm(right(left(x))), through few dims (Menghani et al. 2024)."""

    def __init__(self, dim: int, rank: int, eps: float):
        super().__init__()
        self.linear_left, self.linear_right = nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim, bias=False)
        self.post_laurel_norm = RMSNorm(dim, eps)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.post_laurel_norm(self.linear_right(self.linear_left(x)))
