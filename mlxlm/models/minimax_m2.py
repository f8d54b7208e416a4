"""MiniMax M2: norms over all heads of queries and keys as one, and experts chosen by sigmoid scores and a bias."""

from dataclasses import dataclass

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import BiasedMoE, Experts, FlatRMSNorm, PreNorm, gated
from ..weights import Drop, Rename, expert_rules


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # fmt: off
    UNREAD = frozenset({
        "attn_type_list", "layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta",
        "mlp_intermediate_size", "mtp_transformer_layers", "num_mtp_modules", "qk_norm_type",
        "shared_intermediate_size", "shared_moe_mode", "use_mtp", "use_routing_bias",
    })
    # fmt: on

    num_key_value_heads: int = 8
    head_dim: int = 128
    rope_theta: float = 5_000_000.0
    rotary_dim: int | None = None  # stands before partial_rotary_factor
    num_local_experts: int = 256
    num_experts_per_tok: int = 8
    use_qk_norm: bool = True
    scoring_func: str = "sigmoid"
    max_position_embeddings: int = 196_608


def build(c: Config) -> Decoder:
    recipe.only(c, scoring_func="sigmoid")
    norm, rope = recipe.norm(c), recipe.rope(c, dims=c.rotary_dim)

    def head_norm(heads: int) -> FlatRMSNorm | None:
        return FlatRMSNorm(heads * c.head_dim, c.rms_norm_eps) if c.use_qk_norm else None

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c, rope=rope, q_norm=head_norm(c.num_attention_heads), k_norm=head_norm(c.num_key_value_heads)
        )
        moe = BiasedMoE(
            nn.Linear(c.hidden_size, c.num_local_experts, bias=False),
            Experts(c.hidden_size, c.intermediate_size, c.num_local_experts, glu=gated(c.hidden_act)),
            k=c.num_experts_per_tok,
            bias="e_score_correction_bias",
        )
        return PreNorm(attention, moe, norm, names=NAMES_OF_PARTS)

    return recipe.decoder(c, block, norm)


NAMES_OF_PARTS = ("self_attn", "block_sparse_moe", "input_layernorm", "post_attention_layernorm")
NAMES = (Drop("^mtp"), Rename("mlp", "block_sparse_moe"), *expert_rules("block_sparse_moe", ("w1", "w3", "w2")))
ARCHITECTURE = Architecture(Config, build, NAMES)
