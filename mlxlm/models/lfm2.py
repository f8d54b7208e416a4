"""LFM2: short convolutions, and attention with normed heads every few layers."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Attention, PreNorm, RMSNorm, ShortConv, swiglu
from ..weights import Each, Rename, conv1d_to_mlx


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # fmt: off
    UNREAD = frozenset({
        "block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu",
        "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads", "theta",
        "use_pos_enc",
    })
    # fmt: on

    num_key_value_heads: int = 8
    intermediate_size: int = 12_288
    block_ff_dim: int | None = None  # stands before intermediate_size
    block_multiple_of: int = 256
    block_ffn_dim_multiplier: float | None = 1.0
    block_auto_adjust_ff_dim: bool = True
    conv_bias: bool = False
    conv_L_cache: int = 3
    full_attn_idxs: list[int] | None = None
    layer_types: list[str] | None = None
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    tie_embedding: bool | None = None  # stands before tie_word_embeddings
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 128_000

    def __post_init__(self):
        super().__post_init__()
        self.tie_word_embeddings = self.tie_word_embeddings if self.tie_embedding is None else self.tie_embedding


class NormedAttention(Attention):
    """Attention with the checkpoint's names for what comes after it and for the heads' norms."""

    def __init__(self, *sizes: int, eps: float, **rest):
        super().__init__(*sizes, **rest)
        self.out_proj = self.pop("o_proj")
        self.q_layernorm, self.k_layernorm = RMSNorm(self.head_dim, eps), RMSNorm(self.head_dim, eps)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        return self.out_proj(self.mix(self.heads(self.q_proj(x)), x, cache, step))

    def normed(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        return self.q_layernorm(q), self.k_layernorm(k)


class MLP(nn.Module):
    """w2(silu(w1(x)) * w3(x))."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w1, self.w3 = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.w2(swiglu(self.w1(x), self.w3(x)))


def width(c: Config) -> int:
    """The MLP's hidden size, cut and rounded as the config asks."""
    hidden = c.block_ff_dim or c.intermediate_size
    if not c.block_auto_adjust_ff_dim:
        return hidden
    hidden = int(2 * hidden / 3)
    if c.block_ffn_dim_multiplier is None:
        return hidden
    return -(-int(c.block_ffn_dim_multiplier * hidden) // c.block_multiple_of) * c.block_multiple_of


def blocks(c, mlp: Callable) -> Decoder:
    """The decoder whose layer i has the feed-forward part that ``mlp(i)`` makes."""
    norm, rope = recipe.norm(c), recipe.rope(c)
    chosen = range(c.num_hidden_layers) if c.full_attn_idxs is None else c.full_attn_idxs
    kinds = recipe.layer_types(c, lambda i: "full_attention" if i in chosen else "conv", ("full_attention", "conv"))

    def block(i: int) -> PreNorm:
        sizes = (c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim)
        full = kinds[i] == "full_attention"
        attention = NormedAttention(*sizes, rope=rope, eps=c.rms_norm_eps) if full else None
        mixer = attention or ShortConv(c.hidden_size, c.conv_L_cache, bias=c.conv_bias)
        names = ("self_attn" if full else "conv", "feed_forward", "operator_norm", "ffn_norm")
        return PreNorm(mixer, mlp(i), norm, names=names)

    return recipe.decoder(c, block, norm, names=("embed_tokens", "embedding_norm"))


def build(c: Config) -> Decoder:
    return blocks(c, lambda i: MLP(c.hidden_size, width(c)))


NAMES = (Rename("^model.norm", "model.embedding_norm"),)
VALUES = (Each("conv.conv.weight", conv1d_to_mlx),)
ARCHITECTURE = Architecture(Config, build, NAMES, VALUES)
