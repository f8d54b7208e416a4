"""A backbone whose tokens bring every layer an input of its own, beside what flows through all of them."""

import mlx.core as mx
import mlx.nn as nn

from .cache import State
from .decoder import Backbone, Step
from .layers import RMSNorm


class PerLayerBackbone(Backbone):
    """``embed`` gives (x, inputs): embeddings (B, L, dim) and what each layer gets (B, L, layers, width).

    Layers are called with their input last. ``widened`` and ``narrowed`` are seams for what flows between them.
    """

    def __init__(self, vocab: int, dim: int, layers: list, norm: nn.Module, *, rows: int, width: int, eps: float):
        super().__init__(vocab, dim, layers, norm, embed_scale=dim**0.5)
        self.embed_tokens_per_layer = nn.Embedding(rows, len(layers) * width)
        self.per_layer_model_projection = nn.Linear(dim, len(layers) * width, bias=False)
        self.per_layer_projection_norm = RMSNorm(width, eps)
        self._rows, self._width, self._dim = rows, width, dim

    def embed(self, tokens: mx.array, fill=None):
        x = super().embed(tokens, fill)
        # Tokens past the table (those of images and sounds) have the first one's row.
        rows = self.embed_tokens_per_layer(mx.where(tokens < self._rows, tokens, 0))
        rows = rows * mx.array(self._width**0.5, x.dtype)
        made = mx.unflatten(self.per_layer_model_projection(x) * self._dim**-0.5, -1, (-1, self._width))
        return x, (self.per_layer_projection_norm(made) + mx.unflatten(rows, -1, (-1, self._width))) * 2**-0.5

    def __call__(self, embedded, state: State, positions=None, shared=None) -> mx.array:
        x, inputs = embedded
        step = Step(x.shape[1], state, positions, shared)
        x = self.widened(x)
        for i, (layer, cache) in enumerate(zip(self.layers, state, strict=True)):
            x = layer(x, cache, step, inputs[:, :, i])
        state.offset += step.length
        return self[self._names[1]](self.narrowed(x))

    def widened(self, x: mx.array) -> mx.array:
        """What the first layer gets."""
        return x

    def narrowed(self, x: mx.array) -> mx.array:
        """(B, L, dim) from what the last layer gives."""
        return x


class PerLayerInput(nn.Module):
    """What a layer's own input makes of ``x``: norm(up(act(down(x)) * input)). For layers to inherit."""

    def add_input(self, dim: int, width: int, eps: float, act) -> None:
        self.per_layer_input_gate = nn.Linear(dim, width, bias=False)
        self.per_layer_projection = nn.Linear(width, dim, bias=False)
        self.post_per_layer_input_norm = RMSNorm(dim, eps)
        self._input_act = act

    def with_input(self, x: mx.array, inputs: mx.array) -> mx.array:
        gate = self._input_act(self.per_layer_input_gate(x))
        return self.post_per_layer_input_norm(self.per_layer_projection(gate * inputs))
