"""Bailing MoE (Ling): fused queries, keys and values, experts chosen by softmax or by sigmoid scores and a bias."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Experts, PreNorm, RMSNorm, SparseMoE, gated
from ..layers.moe import pick_biased
from ..weights import Drop, Rename, Split, Suffix, backwards, expert_rules, qkv_sizes


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"use_rmsnorm", "rotary_type", "embedding_dropout", "output_dropout", "router_dtype"})

    num_experts: int | None = None
    num_experts_per_tok: int = 1
    num_shared_experts: int | None = 0
    moe_intermediate_size: int = 0
    moe_shared_expert_intermediate_size: int | None = None
    moe_router_enable_expert_bias: bool = False
    moe_router_enable_shared_expert: bool = True
    moe_router_enable_routed_scaling: bool = True
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    score_function: str = "softmax"
    n_group: int = 1
    topk_group: int = 1
    use_bias: bool = False
    use_qkv_bias: bool = False
    use_qk_norm: bool = False
    rotary_dim: int | None = None  # stands before partial_rotary_factor
    norm_head: bool = False
    norm_softmax: bool = False

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, norm_head=False, norm_softmax=False, moe_router_enable_routed_scaling=True)
        if self.score_function != "sigmoid":
            recipe.only(self, score_function="softmax")


class Gate(nn.Module):
    """A linear gate and a bias that only steers the choice."""

    def __init__(self, c: Config, experts: int):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, experts, bias=False)
        if c.moe_router_enable_expert_bias:
            self.expert_bias = mx.zeros((experts,))
        self._score = mx.sigmoid if c.score_function == "sigmoid" else partial(mx.softmax, axis=-1)
        self._pick = partial(
            pick_biased,
            k=c.num_experts_per_tok,
            groups=c.n_group,
            keep_groups=c.topk_group,
            normalise=c.norm_topk_prob and c.num_experts_per_tok > 1,
            scale=c.routed_scaling_factor,
        )

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return self._pick(self._score(self.gate_proj(x).astype(mx.float32)), self.get("expert_bias"))


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c, dims=c.rotary_dim)
    head_norm = partial(RMSNorm, c.head_dim, c.rms_norm_eps)

    def moe(experts: int) -> SparseMoE:
        width = (c.moe_shared_expert_intermediate_size or c.moe_intermediate_size) * (c.num_shared_experts or 0)
        shared = recipe.gated_mlp(c, width, bias=c.use_bias) if width and c.moe_router_enable_shared_expert else None
        glu = gated(c.hidden_act)
        chosen = Experts(c.hidden_size, c.moe_intermediate_size, experts, glu=glu, bias=c.use_bias)
        return SparseMoE(Gate(c, experts), chosen, shared)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            q_norm=head_norm() if c.use_qk_norm else None,
            k_norm=head_norm() if c.use_qk_norm else None,
            bias=c.use_qkv_bias,
            out_bias=c.use_bias,
        )
        sparse = c.num_experts is not None and i >= c.first_k_dense_replace
        mlp = moe(c.num_experts or 0) if sparse else recipe.gated_mlp(c, bias=c.use_bias)
        return PreNorm(attention, mlp, norm, names=("attention", *PreNorm.NAMES[1:]))

    return recipe.decoder(c, block, norm, names=("word_embeddings", "norm"))


ATTENTION = (
    Split("attention.query_key_value", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), qkv_sizes),
    Rename("attention.dense", "attention.o_proj"),
    Rename("attention.query_layernorm", "attention.q_norm"),
    Rename("attention.key_layernorm", "attention.k_norm"),
)
NAMES = (
    Drop("^mtp"),
    Suffix("mlp.gate.weight", "mlp.gate.gate_proj.weight"),
    *ATTENTION,
    *expert_rules("mlp"),
)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*ATTENTION))
