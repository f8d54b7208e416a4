"""MiniMax Text 01: lightning attention with a full attention between, and residuals that start after the norms.

The first configs of MiniMax M2 have this model_type too; those that name its sigmoid scores are built as that model.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import RecurrentCache
from ..decoder import Decoder
from ..kernels import ops
from ..layers import Experts, RMSNorm, SparseMoE, activation, gated, top_k
from ..layers.mamba import parts
from . import minimax_m2


@dataclass(kw_only=True)
class Config(minimax_m2.Config):
    UNREAD = minimax_m2.Config.UNREAD | {"block_size"}  # how many tokens are worked out at once

    head_dim: int = 0
    rope_theta: float = 1_000_000.0
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    rms_norm_eps: float = 1e-5
    scoring_func: str = "softmax"
    use_qk_norm: bool = False
    sliding_window: int | None = None
    layer_types: list[str] | None = None
    full_attn_alpha_factor: float = 1.0
    full_attn_beta_factor: float = 1.0
    linear_attn_alpha_factor: float = 1.0
    linear_attn_beta_factor: float = 1.0
    mlp_alpha_factor: float = 1.0
    mlp_beta_factor: float = 1.0


class LightningAttention(nn.Module):
    """Linear attention (Qin et al. 2024) whose memory fades by a rate of its own in each head and layer."""

    def __init__(self, c: Config, layer: int):
        super().__init__()
        inner = c.num_attention_heads * c.head_dim
        self.qkv_proj = nn.Linear(c.hidden_size, 3 * inner, bias=False)
        self.out_proj = nn.Linear(inner, c.hidden_size, bias=False)
        self.output_gate = nn.Linear(c.hidden_size, inner, bias=False)
        self.norm = RMSNorm(inner, 1e-6)
        slower = 1 - layer / (c.num_hidden_layers - 1 + 1e-5) + 1e-5
        self._rates = -slower * 2.0 ** (-8 / c.num_attention_heads * mx.arange(1, c.num_attention_heads + 1))
        self.heads, self._act = c.num_attention_heads, activation(c.hidden_act)

    def make_cache(self) -> RecurrentCache:
        return RecurrentCache(1)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        q, k, v = mx.split(parts(self._act(self.qkv_proj(x)), self.heads), 3, axis=-1)
        valid = step.valid()  # padding takes no step in time and writes nothing
        time = mx.ones((*x.shape[:2], self.heads)) * (1.0 if valid is None else valid[..., None])
        y, cache[0] = ops.ssm_scan(v, time, self._rates, k, q, cache[0])
        cache.advance(x.shape[1])
        y = self.norm(y.flatten(-2).astype(x.dtype))
        return self.out_proj(mx.sigmoid(self.output_gate(x)) * y)


class Layer(nn.Module):
    """What a norm gave is carried on, not what it took; alpha weighs it, beta what was made of it."""

    def __init__(self, mixer, moe, norm, attention: tuple[float, float], mlp: tuple[float, float]):
        super().__init__()
        self.self_attn, self.block_sparse_moe = mixer, moe
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self._attention, self._mlp = attention, mlp

    def make_cache(self):
        return self.self_attn.make_cache()

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        x = self.input_layernorm(x)
        x = x * self._attention[0] + self.self_attn(x, cache, step) * self._attention[1]
        x = self.post_attention_layernorm(x)
        return x * self._mlp[0] + self.block_sparse_moe(x) * self._mlp[1]


def build(c: Config) -> Decoder:
    if c.scoring_func == "sigmoid":
        return minimax_m2.build(c)
    recipe.only(c, scoring_func="softmax", use_qk_norm=False, sliding_window=None)
    norm, rope = recipe.norm(c), recipe.rope(c, dims=c.rotary_dim)
    kinds = recipe.layer_types(
        c, lambda i: "linear_attention" if i % 2 else "full_attention", ("linear_attention", "full_attention")
    )

    def block(i: int) -> Layer:
        full = kinds[i] == "full_attention"
        moe = SparseMoE(
            nn.Linear(c.hidden_size, c.num_local_experts, bias=False),
            Experts(c.hidden_size, c.intermediate_size, c.num_local_experts, glu=gated(c.hidden_act)),
            route=top_k(c.num_experts_per_tok),
        )
        linear = (c.linear_attn_alpha_factor, c.linear_attn_beta_factor)
        factors = (c.full_attn_alpha_factor, c.full_attn_beta_factor) if full else linear
        mixer = recipe.attention(c, rope=rope) if full else LightningAttention(c, i)
        return Layer(mixer, moe, norm, factors, (c.mlp_alpha_factor, c.mlp_beta_factor))

    return recipe.decoder(c, block, norm)


def without_rates(weights: dict[str, mx.array], config) -> dict[str, mx.array]:
    """A rule: the decays that checkpoints hold follow from the layer's number."""
    ends = (".slope_rate", ".query_decay", ".key_decay", ".diagonal_decay")
    return {name: w for name, w in weights.items() if not name.endswith(ends)}


ARCHITECTURE = Architecture(Config, build, (*minimax_m2.NAMES, without_rates))
