"""GLM 4.5 to 4.7: partly rotated heads, and DeepSeek V3's grouped experts behind ordinary attention."""

from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm, RMSNorm
from ..weights import FUSED_EXPERTS, stacked


@dataclass(kw_only=True)
class Config(DecoderConfig):
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int | None = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 1
    use_qk_norm: bool = False
    attention_bias: bool = False
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, scoring_func="sigmoid", topk_method="noaux_tc")


def build(c: Config) -> Decoder:
    norm, rope, head_norm = recipe.norm(c), recipe.rope(c), partial(RMSNorm, c.head_dim, c.rms_norm_eps)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            q_norm=head_norm() if c.use_qk_norm else None,
            k_norm=head_norm() if c.use_qk_norm else None,
            bias=c.attention_bias,
            out_bias=False,
        )
        return PreNorm(attention, recipe.grouped_moe(c) if i >= c.first_k_dense_replace else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, (*stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS))
