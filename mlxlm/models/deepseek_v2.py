"""DeepSeek V2: latent attention that keeps its up-projection whole, and experts chosen by softmax, in groups or not."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..kernels import ops
from ..layers import Experts, LatentAttention, PreNorm, SparseMoE, gated
from ..layers.moe import pick_biased
from . import deepseek_v3


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"lm_head", "rm_head"})  # that there is a head to speak, and none to judge

    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    qk_head_dim: int | None = None  # the sum of its two parts
    v_head_dim: int = 128
    moe_intermediate_size: int = 1407
    n_routed_experts: int | None = 64
    num_experts_per_tok: int | None = None
    n_shared_experts: int | None = 2
    n_group: int | None = None
    topk_group: int | None = None
    topk_method: str = "greedy"
    scoring_func: str = "softmax"
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    mlp_layer_types: list[str] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    absorbed: bool = False  # kv_b_proj in the two parts that V3 has, as GGUF keeps it
    use_mla: bool = True  # else attention is Llama's (DeepSeek-OCR)

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, scoring_func="softmax", norm_topk_prob=False)
        if self.topk_method != "greedy":
            recipe.only(self, topk_method="group_limited_greedy")


class ExpandingAttention(LatentAttention):
    """Latents become keys and values of every head by one projection, at every step."""

    def __init__(self, *sizes: int, kv_rank: int, nope_dim: int, v_dim: int, **rest):
        super().__init__(*sizes, kv_rank=kv_rank, nope_dim=nope_dim, v_dim=v_dim, **rest)
        del self.embed_q, self.unembed_out
        self.kv_b_proj = nn.Linear(kv_rank, self.heads * (nope_dim + v_dim), bias=False)

    def gathered(self, q: mx.array, latent: mx.array, bias: mx.array) -> mx.array:
        both = mx.unflatten(self.kv_b_proj(latent[:, 0]), -1, (self.heads, -1)).swapaxes(1, 2)
        k, v = mx.split(both, [self.nope_dim], axis=-1)
        return ops.attention(q, k, v, scale=self.scale, mask=bias)


class Gate(nn.Module):
    """Softmax scores; a group of experts is worth its best one."""

    def __init__(self, c: Config):
        super().__init__()
        self.weight = mx.zeros((c.n_routed_experts or 1, c.hidden_size))
        groups = (c.n_group, c.topk_group) if c.topk_method != "greedy" else (1, 1)
        self._pick = partial(
            pick_biased,
            bias=None,
            k=c.num_experts_per_tok or 1,
            groups=groups[0] or 1,
            keep_groups=groups[1] or 1,
            group_best=1,
            normalise=False,
            scale=c.routed_scaling_factor,
        )

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        logits = ops.linear(x.astype(mx.float32), self.weight)
        return self._pick(mx.softmax(logits, axis=-1))


def build(c: Config) -> Decoder:
    norm, sparse = recipe.norm(c), deepseek_v3.sparse_layers(c)
    rope = recipe.rope(c, dims=c.qk_rope_head_dim, interleaved=True) if c.use_mla else recipe.rope(c)

    def moe() -> SparseMoE:
        experts = Experts(c.hidden_size, c.moe_intermediate_size, c.n_routed_experts or 1, glu=gated(c.hidden_act))
        shared = recipe.gated_mlp(c, c.moe_intermediate_size * c.n_shared_experts) if c.n_shared_experts else None
        return SparseMoE(Gate(c), experts, shared)

    def block(i: int) -> PreNorm:
        mlp = moe() if sparse[i] and c.n_routed_experts else recipe.gated_mlp(c, bias=c.mlp_bias)
        if not c.use_mla:
            return PreNorm(recipe.attention(c, rope=rope, bias=c.attention_bias), mlp, norm)
        kind = LatentAttention if c.absorbed else ExpandingAttention
        return PreNorm(deepseek_v3.latent(c, kind, rope=rope), mlp, norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, deepseek_v3.NAMES)
