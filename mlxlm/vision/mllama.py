"""Llama 3.2 Vision's tower: the tiles of an image attend as one, and outputs of several layers lie side by side."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ConfigError
from ..layers import LayerNorm
from .vit import MLP, Attention, Layers, Patches

RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


@dataclass(kw_only=True)
class VisionConfig:
    hidden_size: int = 1280
    hidden_act: str = "gelu"
    num_hidden_layers: int = 32
    num_global_layers: int = 8
    attention_heads: int = 16
    num_channels: int = 3
    intermediate_size: int = 5120
    vision_output_dim: int = 7680
    image_size: int = 448
    patch_size: int = 14
    norm_eps: float = 1e-5
    max_num_tiles: int = 4
    intermediate_layers_indices: list[int] | None = None
    supported_aspect_ratios: list | None = None
    num_attention_heads: int | None = None  # said again by some

    def __post_init__(self):
        self.intermediate_layers_indices = self.intermediate_layers_indices or [3, 7, 15, 23, 30]
        self.supported_aspect_ratios = self.supported_aspect_ratios or RATIOS
        made = self.hidden_size * (1 + len(self.intermediate_layers_indices))
        if made != self.vision_output_dim:
            raise ConfigError("vision_output_dim isn't what the layers give", where="config.json",
                              found=self.vision_output_dim, expected=made)

    @property
    def num_patches(self) -> int:
        """The patches of a tile, and its class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


class Layer(nn.Module):
    """A pre-norm block whose halves may come in through gates."""

    def __init__(self, c: VisionConfig, gated: bool):
        super().__init__()
        self.self_attn = Attention(c.hidden_size, c.attention_heads, bias=False, out="o_proj")
        self.mlp = MLP(c.hidden_size, c.intermediate_size, c.hidden_act)
        self.input_layernorm = LayerNorm(c.hidden_size, c.norm_eps)
        self.post_attention_layernorm = LayerNorm(c.hidden_size, c.norm_eps)
        if gated:
            self.gate_attn, self.gate_ffn = mx.zeros((1,)), mx.zeros((1,))

    def __call__(self, x: mx.array, mask: mx.array, turn=None) -> mx.array:
        x = x + self._gated(self.self_attn(self.input_layernorm(x), mask), "gate_attn")
        return x + self._gated(self.mlp(self.post_attention_layernorm(x)), "gate_ffn")

    def _gated(self, x: mx.array, gate: str) -> mx.array:
        return mx.tanh(self[gate]) * x if gate in self else x


class TileEmbedding(nn.Module):
    """A learned embedding for each tile of each aspect ratio, behind a gate."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.embedding = nn.Embedding(len(c.supported_aspect_ratios or ()) + 1, c.max_num_tiles * c.hidden_size)
        self.gate = mx.zeros((1,))
        self._tiles = c.max_num_tiles

    def __call__(self, x: mx.array, ratios: mx.array) -> mx.array:
        """x (images, tiles, patches, dim) of aspect ``ratios`` (images,)."""
        own = mx.unflatten(self.embedding(ratios), -1, (self._tiles, 1, -1))
        return x + own * mx.tanh(self.gate)


class PositionEmbedding(nn.Module):
    """Positions in a tile, mixed by a gate with positions in the whole image."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.gate = mx.zeros((1,))
        self.embedding = mx.zeros((c.num_patches, c.hidden_size))
        size = c.max_num_tiles * c.num_patches * c.hidden_size
        self.tile_embedding = nn.Embedding(len(c.supported_aspect_ratios or ()) + 1, size)

    def __call__(self, x: mx.array, ratios: mx.array) -> mx.array:
        gate = mx.tanh(self.gate)
        return x + (1 - gate) * self.embedding + gate * self.tile_embedding(ratios).reshape(-1, *x.shape[1:])


class VisionTower(nn.Module):
    """Tiles of images to features: the last layer's, then those of the chosen ones, interleaved."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        dim = c.hidden_size
        self.patch_embedding = Patches(c.num_channels, dim, c.patch_size, bias=False)
        self.class_embedding = mx.zeros((dim,))
        self.gated_positional_embedding = PositionEmbedding(c)
        self.pre_tile_positional_embedding, self.post_tile_positional_embedding = TileEmbedding(c), TileEmbedding(c)
        self.layernorm_pre, self.layernorm_post = LayerNorm(dim, 1e-5), LayerNorm(dim, 1e-5)
        self.transformer = Layers([Layer(c, gated=False) for _ in range(c.num_hidden_layers)])
        self.global_transformer = Layers([Layer(c, gated=True) for _ in range(c.num_global_layers)])
        self._kept = tuple(c.intermediate_layers_indices or ())

    def __call__(self, pixels: mx.array, ratios: mx.array, tiles: mx.array) -> mx.array:
        """Pixels (images, tiles, channels, height, width), aspect ratio ids (images,), which tiles are there
        (images, tiles), to (images, tiles, patches, dim * (1 + kept layers))."""
        images, n = tiles.shape
        x = self.patch_embedding(pixels.flatten(0, 1)).flatten(1, 2)
        x = self.pre_tile_positional_embedding(mx.unflatten(x, 0, (images, n)), ratios)
        x = mx.concatenate([mx.broadcast_to(self.class_embedding, (*x.shape[:2], 1, x.shape[-1])), x], axis=2)
        x = self.layernorm_pre(self.gated_positional_embedding(x, ratios))
        patches = x.shape[2]
        x = mx.pad(x, [(0, 0), (0, 0), (0, -patches % 8), (0, 0)])
        mask, shape = self._mask(tiles, patches, x.shape[2]), x.shape
        states = self.transformer(x.flatten(1, 2), mask)
        x = self.post_tile_positional_embedding(self.layernorm_post(states[-1]).reshape(shape), ratios)
        x = self.global_transformer(x.flatten(1, 2), mask)[-1]
        # A layer is chosen for what goes into it, as in Meta's own code.
        kept = mx.stack([states[i] for i in self._kept], axis=-1)
        x = mx.concatenate([x, kept.flatten(-2)], axis=-1)
        return mx.unflatten(x, 1, shape[1:3])[:, :, :patches]

    @staticmethod
    def _mask(tiles: mx.array, patches: int, padded: int) -> mx.array:
        """Who sees whom. As the model was trained, padding is hidden from padding alone: patches do see it."""
        real = np.array(tiles).astype(bool)[:, :, None] & (np.arange(padded) < patches)
        real = real.reshape(len(real), 1, -1)
        return mx.array(real[..., :, None] | real[..., None, :])  # type: ignore[arg-type]
