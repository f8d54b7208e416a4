"""MiMo V2 Flash: sliding layers with sinks and more KV heads, values narrower than keys, DeepSeek V3's experts."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Attention, PreNorm, make_rope
from ..weights import Drop, Suffix, backwards, expert_rules


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"attention_chunk_size", "hybrid_block_size"})

    num_key_value_heads: int = 4
    head_dim: int = 192
    v_head_dim: int = 128
    swa_num_attention_heads: int | None = None
    swa_num_key_value_heads: int | None = None  # twice the full layers'
    swa_head_dim: int | None = None
    swa_v_head_dim: int | None = None
    swa_rope_theta: float = 10_000.0
    add_swa_attention_sink_bias: bool = True
    add_full_attention_sink_bias: bool = False
    attention_value_scale: float | None = 0.707
    attention_bias: bool = False
    sliding_window: int = 129  # the query itself among them
    sliding_window_size: int | None = None  # tokens before the query; stands before sliding_window
    layer_types: list[str] | None = None
    hybrid_layer_pattern: list[int] | None = None  # 1 where a layer slides
    mlp_layer_types: list[str] | None = None
    moe_layer_freq: list[int] | None = None  # 1 where a layer has experts
    moe_intermediate_size: int = 2048
    n_routed_experts: int = 256
    num_experts_per_tok: int = 8
    n_shared_experts: int | None = None
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 5_000_000.0
    partial_rotary_factor: float = 0.334
    max_position_embeddings: int = 131_072

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, scoring_func="sigmoid", topk_method="noaux_tc")
        if self.layer_types is None and self.hybrid_layer_pattern is not None:
            self.layer_types = ["sliding_attention" if near else "full_attention" for near in self.hybrid_layer_pattern]
        if self.mlp_layer_types is not None:
            self.moe_layer_freq = [int(kind == "sparse") for kind in self.mlp_layer_types]
        if self.sliding_window_size is not None:
            self.sliding_window = self.sliding_window_size + 1
        settings = self.rope_parameters or {}
        if "full_attention" not in settings:
            near = {**settings, "rope_theta": self.swa_rope_theta}
            self.rope_parameters = {"full_attention": settings, "sliding_attention": near}


class ScaledAttention(Attention):
    """Attention whose values have a width and a scale of their own."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, *, v_dim: int, v_scale: float, **rest):
        super().__init__(dim, heads, kv_heads, head_dim, **rest)
        self.v_proj = nn.Linear(dim, kv_heads * v_dim, bias="bias" in self.v_proj)
        self.o_proj = nn.Linear(heads * v_dim, dim, bias=False)
        self.v_dim, self.v_scale = v_dim, v_scale

    def values(self, x: mx.array) -> mx.array:
        return mx.unflatten(self.v_proj(x), -1, (-1, self.v_dim)) * self.v_scale


def build(c: Config) -> Decoder:
    norm = recipe.norm(c)
    kinds = recipe.layer_types(
        c,
        lambda i: "full_attention" if i == 0 or (i + 1) % 6 == 0 else "sliding_attention",
        ("full_attention", "sliding_attention"),
    )
    sparse = c.moe_layer_freq or [i > 0 for i in range(c.num_hidden_layers)]

    def attention(near: bool) -> ScaledAttention:
        heads = (c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.v_head_dim)
        if near:
            kv_heads = c.swa_num_key_value_heads or 2 * c.num_key_value_heads
            own = (c.swa_num_attention_heads, kv_heads, c.swa_head_dim, c.swa_v_head_dim)
            heads = tuple(mine or other for mine, other in zip(own, heads, strict=True))
        settings = c.rope("sliding_attention" if near else "full_attention")
        dims = int(heads[2] * settings["partial_rotary_factor"])
        return ScaledAttention(
            c.hidden_size,
            *heads[:3],
            v_dim=heads[3],
            v_scale=1.0 if c.attention_value_scale is None else c.attention_value_scale,
            rope=make_rope(dims, settings, max_positions=c.max_position_embeddings),
            window=c.sliding_window if near else None,
            sinks=c.add_swa_attention_sink_bias if near else c.add_full_attention_sink_bias,
            bias=c.attention_bias,
        )

    def block(i: int) -> PreNorm:
        mlp = recipe.grouped_moe(c) if sparse[i] else recipe.gated_mlp(c)
        return PreNorm(attention(kinds[i] == "sliding_attention"), mlp, norm)

    return recipe.decoder(c, block, norm)


SINKS = Suffix("self_attn.attention_sink_bias", "self_attn.sinks")
NAMES = (Drop("^model.mtp"), SINKS, *expert_rules("mlp"))
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(SINKS))
