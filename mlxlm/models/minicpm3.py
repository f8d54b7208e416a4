"""MiniCPM 3: MiniCPM's scales around latent attention, of which the cache keeps keys and values for every head."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import KVCache
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm, RMSNorm, attend
from ..layers.rope import yarn_mscale


@dataclass(kw_only=True)
class Config(DecoderConfig):
    q_lora_rank: int | None = 768
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 0
    qk_head_dim: int | None = None  # the sum of its two parts, said again
    scale_emb: float = 12
    scale_depth: float = 1.4
    dim_model_base: int = 256
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    max_position_embeddings: int = 32_768
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.v_head_dim = self.v_head_dim or self.hidden_size // self.num_attention_heads


class Attention(nn.Module):
    """Queries, keys and values out of low-rank projections; one rotated key for all heads."""

    def __init__(self, c: Config, rope):
        super().__init__()
        heads, head_dim = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
        if c.q_lora_rank is None:
            self.q_proj = nn.Linear(c.hidden_size, heads * head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(c.hidden_size, c.q_lora_rank, bias=c.attention_bias)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank, 1e-6)
            self.q_b_proj = nn.Linear(c.q_lora_rank, heads * head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, bias=c.attention_bias)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, 1e-6)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * c.v_head_dim, c.hidden_size, bias=c.attention_bias)
        self.heads, self.nope_dim, self.rank, self.scale = heads, c.qk_nope_head_dim, c.kv_lora_rank, head_dim**-0.5
        settings = c.rope()
        if settings["rope_type"] != "default" and settings.get("mscale_all_dim"):
            self.scale *= yarn_mscale(settings["factor"], settings["mscale_all_dim"]) ** 2
        self._rope = rope

    def make_cache(self) -> KVCache:
        return KVCache()

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if "q_a_proj" in self else self.q_proj(x)
        latent, k_pe = mx.split(self.kv_a_proj_with_mqa(x), [self.rank], axis=-1)
        q_nope, q_pe = mx.split(self._per_head(q), [self.nope_dim], axis=-1)
        k_nope, v = mx.split(self._per_head(self.kv_b_proj(self.kv_a_layernorm(latent))), [self.nope_dim], axis=-1)
        k_pe = mx.broadcast_to(self._rope(k_pe[:, None], step), q_pe.shape)
        q = mx.concatenate([q_nope, self._rope(q_pe, step)], axis=-1)
        mask = step.mask(cache)
        k, v = cache.update(mx.concatenate([k_nope, k_pe], axis=-1), v)
        out = attend(q, k, v, scale=self.scale, mask=mask)
        return self.o_proj(out.swapaxes(1, 2).flatten(-2))

    def _per_head(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (self.heads, -1)).swapaxes(1, 2)


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c, dims=c.qk_rope_head_dim)
    residual, smaller = c.scale_depth / c.num_hidden_layers**0.5, c.hidden_size / c.dim_model_base

    def block(i: int) -> PreNorm:
        return PreNorm(Attention(c, rope), recipe.gated_mlp(c, bias=c.mlp_bias), norm, residual=residual)

    return recipe.decoder(c, block, norm, embed_scale=c.scale_emb, finish=lambda logits: logits / smaller)


ARCHITECTURE = Architecture(Config, build)
