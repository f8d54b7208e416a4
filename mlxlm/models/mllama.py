"""Llama 3.2 Vision's decoder: Llama, with layers in between that look at images and do nothing where there are none."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import CrossCache
from ..config import DecoderConfig
from ..decoder import Backbone, Decoder
from ..kernels import ops
from ..layers import PreNorm, RMSNorm
from ..weights import Drop, Rename

SPARE_ROWS = 8  # of the embedding, past the head's: the image token is among them


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 128_256
    hidden_size: int = 4096
    num_hidden_layers: int = 40
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    intermediate_size: int = 14_336
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    max_position_embeddings: int = 131_072
    cross_attention_layers: list[int] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.cross_attention_layers is None:
            self.cross_attention_layers = [3, 8, 13, 18, 23, 28, 33, 38]


class CrossAttention(nn.Module):
    """Queries of the text, keys and values of the images, normed head by head and not turned."""

    def __init__(self, c: Config):
        super().__init__()
        dim, heads = c.hidden_size, (c.num_attention_heads, c.num_key_value_heads)
        self.q_proj = nn.Linear(dim, heads[0] * c.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, heads[1] * c.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, heads[1] * c.head_dim, bias=False)
        self.o_proj = nn.Linear(heads[0] * c.head_dim, dim, bias=False)
        self.q_norm, self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps), RMSNorm(c.head_dim, c.rms_norm_eps)
        self.head_dim = c.head_dim

    def remembered(self, features: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values (B, kv_heads, S, head_dim) of image features (B, S, dim)."""
        k, v = self.heads(self.k_proj(features)), self.heads(self.v_proj(features))
        return self.k_norm(k).swapaxes(1, 2), v.swapaxes(1, 2)

    def __call__(self, x: mx.array, cache: CrossCache, mask: mx.array) -> mx.array:
        q = self.q_norm(self.heads(self.q_proj(x))).swapaxes(1, 2)
        out = ops.attention(q, cache.keys, cache.values, scale=self.head_dim**-0.5, mask=mask)
        return self.o_proj(out.swapaxes(1, 2).flatten(-2))

    def heads(self, x: mx.array) -> mx.array:
        """(B, L, heads * head_dim) to (B, L, heads, head_dim)."""
        return mx.unflatten(x, -1, (-1, self.head_dim))


class CrossLayer(nn.Module):
    """Attention to images and an MLP, each behind a gate; a token that sees no image passes as it is."""

    def __init__(self, c: Config):
        super().__init__()
        self.cross_attn, self.mlp = CrossAttention(c), recipe.gated_mlp(c)
        norm = recipe.norm(c)
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.cross_attn_attn_gate, self.cross_attn_mlp_gate = mx.zeros((1,)), mx.zeros((1,))

    def make_cache(self) -> CrossCache:
        return CrossCache()

    def __call__(self, x: mx.array, cache: CrossCache, step) -> mx.array:
        cache.advance(step.length)
        if cache.keys is None:
            return x
        if "images" not in step.shared:  # the same for every layer
            mask = cache.mask(step.start, step.length)
            some = mask.any(-1, keepdims=True)
            step.shared["images"] = (mask | ~some)[:, None], some.astype(x.dtype)
        mask, some = step.shared["images"]
        h = self.cross_attn(self.input_layernorm(x), cache, mask)
        x = x + mx.tanh(self.cross_attn_attn_gate) * some * h
        return x + mx.tanh(self.cross_attn_mlp_gate) * some * self.mlp(self.post_attention_layernorm(x))


def build(c: Config) -> Decoder:
    norm, rope, cross = recipe.norm(c), recipe.rope(c), set(c.cross_attention_layers or ())

    def layer(i: int) -> nn.Module:
        return CrossLayer(c) if i in cross else PreNorm(recipe.attention(c, rope=rope), recipe.gated_mlp(c), norm)

    layers = [layer(i) for i in range(c.num_hidden_layers)]
    model = Decoder(Backbone(c.vocab_size + SPARE_ROWS, c.hidden_size, layers, norm()), tied=True)
    model.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
    return model


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        Rename("^model.language_model", "model"),
        Rename("^language_model.model", "model"),  # as transformers 4 writes it
        Rename("^language_model.lm_head", "lm_head"),
        *(Drop(f"^{root}{part}") for root in ("", "model.") for part in
          ("vision_model", "vision_tower", "multi_modal_projector")),
    ),
)
