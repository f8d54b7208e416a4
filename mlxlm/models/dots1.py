"""dots.llm1: Qwen 3's attention before DeepSeek V3's experts, and windows from some layer on."""

from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import PreNorm, RMSNorm
from ..weights import FUSED_EXPERTS, Rename, backwards, stacked
from . import llama, qwen2

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(kw_only=True)
class Config(qwen2.Config):
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int = 1408
    n_shared_experts: int | None = None
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    scoring_func: str | list[str] = "noaux_tc"  # the releases say so, and score by sigmoids
    topk_method: str = "noaux_tc"
    sliding_window: int | None = 4096
    max_window_layers: int = 62

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, moe_layer_freq=1, topk_method="noaux_tc", mlp_bias=False)


def build(c: Config) -> Decoder:
    norm, rope, window = recipe.norm(c), recipe.rope(c), llama.windows(c)
    head_norm = partial(RMSNorm, c.head_dim, c.rms_norm_eps)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c, rope=rope, window=window[i], q_norm=head_norm(), k_norm=head_norm(), bias=c.attention_bias
        )
        return PreNorm(attention, recipe.grouped_moe(c) if i >= c.first_k_dense_replace else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


STACKS = tuple(Rename(f"mlp.experts.{p}", f"mlp.switch_mlp.{p}") for p in PROJECTIONS)  # mlx-lm's names
NAMES = (*stacked(*PROJECTIONS), *FUSED_EXPERTS, *STACKS)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*STACKS))
