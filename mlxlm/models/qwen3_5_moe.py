"""Qwen 3.5 with experts, the text half."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import GatedDeltaNet
from . import qwen3_5, qwen3_next


@dataclass(kw_only=True)
class Config(qwen3_5.Config):
    hidden_size: int = 2048
    num_hidden_layers: int = 40
    num_key_value_heads: int = 2
    num_experts: int = 256
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    norm_topk_prob: bool = True  # always, whatever a config says

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, norm_topk_prob=True)


def build(c: Config) -> Decoder:
    return recipe.decoder(c, qwen3_next.blocks(c, GatedDeltaNet, lambda i: qwen3_next.moe(c)), recipe.norm(c))


ARCHITECTURE = Architecture(Config, build, qwen3_5.NAMES, qwen3_next.VALUES)
