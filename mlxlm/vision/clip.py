"""CLIP: a vision transformer with a class token in front and a norm before its layers."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..errors import UsageError
from ..layers import LayerNorm
from .vit import Patches, VisionConfig, encoder


@dataclass(kw_only=True)
class ClipConfig(VisionConfig):
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class Embeddings(nn.Module):
    """The class token and the patches, each with its learned position."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.class_embedding = mx.zeros((c.hidden_size,))
        self.patch_embedding = Patches(c.num_channels, c.hidden_size, c.patch_size, bias=False)
        self.position_embedding = nn.Embedding(c.side**2 + 1, c.hidden_size)

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.patch_embedding(pixels).flatten(1, 2)
        rows = self.position_embedding.weight.shape[0]
        if x.shape[1] + 1 != rows:
            raise UsageError(
                "the image isn't of the size that the tower takes",
                where="pixel_values",
                found=f"{x.shape[1]} patches",
                expected=f"{rows - 1}",
            )
        first = mx.broadcast_to(self.class_embedding.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        return mx.concatenate([first, x], axis=1) + self.position_embedding(mx.arange(rows))


class Clip(nn.Module):
    """Pixels (N, channels, H, W) to hidden states (N, 1 + patches, dim); the first row is the class token's."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(c), encoder(c)
        self.pre_layrnorm = LayerNorm(c.hidden_size, c.layer_norm_eps)  # spelled as in every checkpoint
        self.post_layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)  # of the class token; images don't need it

    def states(self, pixels: mx.array) -> list[mx.array]:
        """The hidden states: what goes into the first layer, then what each layer makes of it."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)))

    def __call__(self, pixels: mx.array) -> mx.array:
        return self.states(pixels)[-1]
