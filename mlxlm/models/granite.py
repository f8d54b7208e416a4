"""Granite: Llama with four multipliers, on embeddings, scores, residuals and logits."""

from collections.abc import Callable
from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm


@dataclass(kw_only=True)
class Config(DecoderConfig):
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False


def build(c: Config, mlp: Callable | None = None) -> Decoder:
    """``mlp()`` makes another feed-forward layer than the dense one."""
    norm, rope = recipe.norm(c), recipe.rope(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, rope=rope, scale=c.attention_multiplier, bias=c.attention_bias)
        feed = mlp() if mlp else recipe.gated_mlp(c, bias=c.mlp_bias)
        return PreNorm(attention, feed, norm, residual=c.residual_multiplier)

    return recipe.decoder(
        c, block, norm, embed_scale=c.embedding_multiplier, finish=lambda logits: logits / c.logits_scaling
    )


ARCHITECTURE = Architecture(Config, build)
