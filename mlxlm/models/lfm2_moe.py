"""LFM2 with experts in all but the first layers, chosen by sigmoid scores and a bias."""

from dataclasses import dataclass

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import BiasedMoE, Experts
from ..weights import Rename, expert_rules
from . import lfm2

WS = (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj"))


@dataclass(kw_only=True)
class Config(lfm2.Config):
    intermediate_size: int = 7168
    moe_intermediate_size: int = 1792
    num_experts: int = 32
    num_experts_per_tok: int = 4
    num_dense_layers: int = 2
    norm_topk_prob: bool = True
    use_expert_bias: bool = True
    routed_scaling_factor: float = 1.0


def build(c: Config) -> Decoder:
    def mlp(i: int):
        if i < c.num_dense_layers:
            return recipe.gated_mlp(c)
        return BiasedMoE(
            nn.Linear(c.hidden_size, c.num_experts, bias=False),
            Experts(c.hidden_size, c.moe_intermediate_size, c.num_experts),
            k=c.num_experts_per_tok,
            bias="expert_bias" if c.use_expert_bias else None,
            normalise=c.norm_topk_prob,
            scale=c.routed_scaling_factor,
            eps=1e-6,
        )

    return lfm2.blocks(c, mlp)


NAMES = (
    *lfm2.NAMES,
    *expert_rules("feed_forward", ("w1", "w3", "w2")),
    *(Rename(f"feed_forward.{w}", f"feed_forward.{name}") for w, name in WS),
)
ARCHITECTURE = Architecture(Config, build, NAMES, lfm2.VALUES)
