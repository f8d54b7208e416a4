"""Qwen 3 Next: three gated delta layers, then one of gated attention; many experts, and a shared one with a gate."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Attention, Experts, GatedDeltaNet, PreNorm, RMSNorm, SharedGateMoE, activation, gated, top_k
from ..layers.mamba import parts
from ..weights import FUSED_EXPERTS, Drop, Each, conv1d_to_mlx, stacked


@dataclass(kw_only=True)
class DeltaConfig(DecoderConfig):
    """What every model of delta nets with an attention every so often says."""

    head_dim: int = 256
    linear_num_value_heads: int = 32
    linear_num_key_heads: int = 16
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4
    full_attention_interval: int = 4
    layer_types: list[str] | None = None
    attention_bias: bool = False
    max_position_embeddings: int = 32_768
    partial_rotary_factor: float = 0.25


@dataclass(kw_only=True)
class Config(DeltaConfig):
    num_key_value_heads: int = 2
    num_experts: int = 512
    num_experts_per_tok: int = 10
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    norm_topk_prob: bool = True
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=list)
    projections_apart: bool = False  # GGUF keeps apart what the delta nets' checkpoints fuse


class GatedAttention(Attention):
    """Attention whose q_proj also makes a gate for what it says."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, *, bias: bool = False, **rest):
        super().__init__(dim, heads, kv_heads, head_dim, bias=bias, **rest)
        self.q_proj = nn.Linear(dim, 2 * heads * head_dim, bias=bias)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        q, gate = mx.split(mx.unflatten(self.q_proj(x), -1, (-1, 2 * self.head_dim)), 2, axis=-1)
        return self.o_proj(self.mix(q, x, cache, step) * mx.sigmoid(gate.flatten(-2)))


class FusedDeltaNet(GatedDeltaNet):
    """q, k, v and the gate come from one projection, in groups by key head; so do b and a."""

    def add_projections(self, dim: int, keys: int, values: int) -> None:
        self.in_proj_qkvz = nn.Linear(dim, 2 * (keys + values), bias=False)
        self.in_proj_ba = nn.Linear(dim, 2 * self.v_heads, bias=False)

    def project(self, x: mx.array):
        values = self.v_heads // self.k_heads * self.v_dim
        cuts = [self.k_dim, 2 * self.k_dim, 2 * self.k_dim + values]
        q, k, v, z = (t.flatten(-2) for t in mx.split(parts(self.in_proj_qkvz(x), self.k_heads), cuts, axis=-1))
        b, a = (t.flatten(-2) for t in mx.split(parts(self.in_proj_ba(x), self.k_heads), 2, axis=-1))
        return mx.concatenate([q, k, v], axis=-1), z, b, a


def blocks(c, delta: type[GatedDeltaNet], mlp: Callable) -> Callable:
    """The layers: ``delta`` nets with an attention every so often, each followed by what ``mlp(i)`` makes."""
    norm, rope, head_norm = recipe.norm(c), recipe.rope(c), partial(RMSNorm, c.head_dim, c.rms_norm_eps)
    every = c.full_attention_interval
    kinds = recipe.layer_types(
        c, lambda i: "linear_attention" if (i + 1) % every else "full_attention", ("linear_attention", "full_attention")
    )

    def block(i: int) -> PreNorm:
        if kinds[i] == "full_attention":
            heads = (c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim)
            mixer = GatedAttention(*heads, rope=rope, q_norm=head_norm(), k_norm=head_norm(), bias=c.attention_bias)
            return PreNorm(mixer, mlp(i), norm)
        mixer = delta(
            c.hidden_size,
            k_heads=c.linear_num_key_heads,
            v_heads=c.linear_num_value_heads,
            k_dim=c.linear_key_head_dim,
            v_dim=c.linear_value_head_dim,
            conv=c.linear_conv_kernel_dim,
            eps=c.rms_norm_eps,
            act=activation(c.hidden_act),
        )
        return PreNorm(mixer, mlp(i), norm, names=("linear_attn", *PreNorm.NAMES[1:]))

    return block


def moe(c) -> SharedGateMoE:
    gate = nn.Linear(c.hidden_size, c.num_experts, bias=False)
    experts = Experts(c.hidden_size, c.moe_intermediate_size, c.num_experts, glu=gated(c.hidden_act))
    shared = recipe.gated_mlp(c, c.shared_expert_intermediate_size)
    return SharedGateMoE(gate, experts, shared, route=top_k(c.num_experts_per_tok, normalise=c.norm_topk_prob))


def build(c: Config) -> Decoder:
    def mlp(i: int):
        sparse = i not in c.mlp_only_layers and c.num_experts > 0 and (i + 1) % c.decoder_sparse_step == 0
        return moe(c) if sparse else recipe.gated_mlp(c)

    return recipe.decoder(c, blocks(c, GatedDeltaNet if c.projections_apart else FusedDeltaNet, mlp), recipe.norm(c))


def plus_one(w: mx.array, config) -> mx.array:
    """A norm's weight, stored as the distance from one."""
    return 1.0 + w


NORMS = ("input_layernorm", "post_attention_layernorm", "^model.norm", "self_attn.q_norm", "self_attn.k_norm")
VALUES = (*(Each(f"{norm}.weight", plus_one) for norm in NORMS), Each("conv1d.weight", conv1d_to_mlx))

ARCHITECTURE = Architecture(
    Config, build, (Drop("^mtp"), *stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS), VALUES
)
