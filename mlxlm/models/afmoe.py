"""AFMoE (Trinity): gated attention with positions in sliding layers only, sandwich norms, biased experts."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Attention, BiasedMoE, Experts, RMSNorm, Sandwich, gated
from ..weights import expert_rules


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"load_balance_coeff", "use_grouped_mm", "num_expert_groups", "num_limited_groups"})

    head_dim: int = 128
    moe_intermediate_size: int = 1408
    num_dense_layers: int = 1
    num_experts: int = 64
    num_experts_per_tok: int = 6
    num_shared_experts: int = 2
    route_scale: float = 1.0
    route_norm: bool = True
    score_func: str = "sigmoid"
    n_group: int = 1
    topk_group: int = 1
    global_attn_every_n_layers: int = 4
    sliding_window: int | None = 1024
    layer_types: list[str] | None = None
    mup_enabled: bool = False
    attention_bias: bool = False
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 16_384

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, route_norm=True, score_func="sigmoid", n_group=1, topk_group=1)


class GatedAttention(Attention):
    """Attention with a gate on what it says."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, **rest):
        super().__init__(dim, heads, kv_heads, head_dim, **rest)
        self.gate_proj = nn.Linear(dim, heads * head_dim, bias=False)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        y = self.mix(self.heads(self.q_proj(x)), x, cache, step)
        return self.o_proj(y * mx.sigmoid(self.gate_proj(x)))


class Router(nn.Module):
    """The gate, a level deeper than elsewhere."""

    def __init__(self, dim: int, experts: int):
        super().__init__()
        self.gate = nn.Linear(dim, experts, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.gate(x)


def build(c: Config) -> Decoder:
    norm, rope, head_norm = recipe.norm(c), recipe.rope(c), partial(RMSNorm, c.head_dim, c.rms_norm_eps)
    sizes = (c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim)
    kinds = recipe.layer_types(
        c,
        lambda i: "sliding_attention" if (i + 1) % c.global_attn_every_n_layers else "full_attention",
        ("full_attention", "sliding_attention"),
    )

    def moe() -> BiasedMoE:
        shared = recipe.gated_mlp(c, c.moe_intermediate_size * c.num_shared_experts) if c.num_shared_experts else None
        return BiasedMoE(
            Router(c.hidden_size, c.num_experts),
            Experts(c.hidden_size, c.moe_intermediate_size, c.num_experts, glu=gated(c.hidden_act)),
            shared,
            k=c.num_experts_per_tok,
            bias="expert_bias",
            names=("router", "experts"),
            scale=c.route_scale,
        )

    def block(i: int) -> Sandwich:
        near = kinds[i] == "sliding_attention"
        attention = GatedAttention(
            *sizes,
            rope=rope if near else None,
            window=c.sliding_window if near else None,
            q_norm=head_norm(),
            k_norm=head_norm(),
            bias=c.attention_bias,
        )
        mlp = recipe.gated_mlp(c) if i < c.num_dense_layers else moe()
        return Sandwich(attention, mlp, norm, names=("pre_mlp_layernorm", "post_mlp_layernorm"))

    return recipe.decoder(c, block, norm, embed_scale=c.hidden_size**0.5 if c.mup_enabled else 1.0)


ARCHITECTURE = Architecture(Config, build, expert_rules("mlp", to="experts"))
