"""Granite with experts: the best few chosen, then softmaxed."""

from dataclasses import dataclass

import mlx.nn as nn

from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import Experts, SparseMoE, gated, top_k
from ..weights import FUSED_EXPERTS, Rename, backwards
from . import granite


@dataclass(kw_only=True)
class Config(granite.Config):
    num_local_experts: int = 8
    num_experts_per_tok: int = 2


def moe(c: Config) -> SparseMoE:
    return SparseMoE(
        nn.Linear(c.hidden_size, c.num_local_experts, bias=False),
        Experts(c.hidden_size, c.intermediate_size, c.num_local_experts, glu=gated(c.hidden_act)),
        route=top_k(c.num_experts_per_tok, softmax_first=False),
    )


def build(c: Config) -> Decoder:
    return granite.build(c, lambda: moe(c))


PLAIN = (Rename("block_sparse_moe", "mlp"), Rename("mlp.router.layer", "mlp.gate"))
NAMES = (
    *PLAIN,
    Rename("mlp.router", "mlp.gate"),
    Rename("mlp.input_linear", "mlp.switch_mlp.gate_up_proj"),
    Rename("mlp.output_linear", "mlp.switch_mlp.down_proj"),
    *FUSED_EXPERTS,
)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*PLAIN))
