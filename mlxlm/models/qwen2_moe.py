"""Qwen 2 with experts: a shared one works on every token, behind a gate of its own."""

from dataclasses import dataclass, field

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import Experts, PreNorm, SharedGateMoE, gated, top_k
from ..weights import FUSED_EXPERTS, stacked
from . import llama, qwen2


@dataclass(kw_only=True)
class Config(qwen2.Config):
    num_experts: int = 60
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=list)
    qkv_bias: bool = True


def moe(c: Config) -> SharedGateMoE:
    return SharedGateMoE(
        nn.Linear(c.hidden_size, c.num_experts, bias=False),
        Experts(c.hidden_size, c.moe_intermediate_size, c.num_experts, glu=gated(c.hidden_act)),
        recipe.gated_mlp(c, c.shared_expert_intermediate_size),
        route=top_k(c.num_experts_per_tok, normalise=c.norm_topk_prob),
    )


def build(c: Config) -> Decoder:
    norm, rope, window = recipe.norm(c), recipe.rope(c), llama.windows(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, rope=rope, window=window[i], bias=c.qkv_bias, out_bias=False)
        sparse = i not in c.mlp_only_layers and c.num_experts > 0 and (i + 1) % c.decoder_sparse_step == 0
        return PreNorm(attention, moe(c) if sparse else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, (*stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS))
