"""Jamba: Mamba layers with a few of attention without positions, and experts in every other MLP."""

import math
from dataclasses import dataclass

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Experts, Mamba, PreNorm, RMSNorm, SparseMoE, activation, gated, top_k
from ..weights import Each, Rename, conv1d_to_mlx, expert_rules


@dataclass(kw_only=True)
class Config(DecoderConfig):
    num_key_value_heads: int = 8
    num_experts: int = 16
    num_experts_per_tok: int = 2
    expert_layer_period: int = 2
    expert_layer_offset: int = 1
    attn_layer_period: int = 8
    attn_layer_offset: int = 4
    layers_block_type: list[str] | None = None
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: float = 2
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    sliding_window: int | None = None

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, sliding_window=None)


def build(c: Config) -> Decoder:
    norm = recipe.norm(c)
    rank = math.ceil(c.hidden_size / 16) if c.mamba_dt_rank == "auto" else int(c.mamba_dt_rank)
    attends = [i % c.attn_layer_period == c.attn_layer_offset for i in range(c.num_hidden_layers)]
    if c.layers_block_type is not None:
        attends = [kind == "attention" for kind in c.layers_block_type]

    def mamba() -> Mamba:
        return Mamba(
            c.hidden_size,
            int(c.mamba_expand * c.hidden_size),
            state=c.mamba_d_state,
            rank=rank,
            conv=c.mamba_d_conv,
            bias=c.mamba_proj_bias,
            conv_bias=c.mamba_conv_bias,
            act=activation(c.hidden_act),
            norms=(
                RMSNorm(rank, c.rms_norm_eps),
                RMSNorm(c.mamba_d_state, c.rms_norm_eps),
                RMSNorm(c.mamba_d_state, c.rms_norm_eps),
            ),
        )

    def moe() -> SparseMoE:
        router = nn.Linear(c.hidden_size, c.num_experts, bias=False)
        experts = Experts(c.hidden_size, c.intermediate_size, c.num_experts, glu=gated(c.hidden_act))
        route = top_k(c.num_experts_per_tok, normalise=False)
        return SparseMoE(router, experts, route=route, names=("router", "switch_mlp"))

    def block(i: int) -> PreNorm:
        sparse = c.num_experts > 1 and i % c.expert_layer_period == c.expert_layer_offset
        name, mixer = ("self_attn", recipe.attention(c)) if attends[i] else ("mamba", mamba())
        names = (name, "feed_forward", "input_layernorm", "pre_ff_layernorm")
        return PreNorm(mixer, moe() if sparse else recipe.gated_mlp(c), norm, names=names)

    return recipe.decoder(c, block, norm, names=("embed_tokens", "final_layernorm"))


NAMES = (Rename("^model.norm", "model.final_layernorm"), *expert_rules("feed_forward"))
ARCHITECTURE = Architecture(Config, build, NAMES, (Each("conv1d.weight", conv1d_to_mlx),))
