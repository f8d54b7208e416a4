"""OLMoE: Llama with experts, and all heads of queries or keys normed as one."""

from dataclasses import dataclass

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Experts, FlatRMSNorm, PreNorm, SparseMoE, gated, top_k
from ..weights import FUSED_EXPERTS, stacked


@dataclass(kw_only=True)
class Config(DecoderConfig):
    num_experts: int = 64
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False
    attention_bias: bool = False
    clip_qkv: float | None = None
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            q_norm=FlatRMSNorm(c.num_attention_heads * c.head_dim, c.rms_norm_eps),
            k_norm=FlatRMSNorm(c.num_key_value_heads * c.head_dim, c.rms_norm_eps),
            bias=c.attention_bias,
            clip=c.clip_qkv,
        )
        moe = SparseMoE(
            nn.Linear(c.hidden_size, c.num_experts, bias=False),
            Experts(c.hidden_size, c.intermediate_size, c.num_experts, glu=gated(c.hidden_act)),
            route=top_k(c.num_experts_per_tok, normalise=c.norm_topk_prob),
        )
        return PreNorm(attention, moe, norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, (*stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS))
