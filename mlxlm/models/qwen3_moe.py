"""Qwen 3 with experts: softmaxed over all, the best few kept."""

from dataclasses import dataclass, field
from functools import partial

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Experts, PreNorm, RMSNorm, SparseMoE, gated, top_k
from ..weights import FUSED_EXPERTS, stacked


@dataclass(kw_only=True)
class Config(DecoderConfig):
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=list)
    attention_bias: bool = False
    sliding_window: int | None = None
    max_window_layers: int = 28  # has no effect in this model: the window, where used, is every layer's


def build(c: Config) -> Decoder:
    norm, rope, head_norm = recipe.norm(c), recipe.rope(c), partial(RMSNorm, c.head_dim, c.rms_norm_eps)

    def moe() -> SparseMoE:
        gate = nn.Linear(c.hidden_size, c.num_experts, bias=False)
        experts = Experts(c.hidden_size, c.moe_intermediate_size, c.num_experts, glu=gated(c.hidden_act))
        return SparseMoE(gate, experts, route=top_k(c.num_experts_per_tok, normalise=c.norm_topk_prob))

    def block(i: int) -> PreNorm:
        sparse = i not in c.mlp_only_layers and c.num_experts > 0 and (i + 1) % c.decoder_sparse_step == 0
        attention = recipe.attention(
            c, rope=rope, window=c.sliding_window, q_norm=head_norm(), k_norm=head_norm(), bias=c.attention_bias
        )
        return PreNorm(attention, moe() if sparse else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, (*stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS))
