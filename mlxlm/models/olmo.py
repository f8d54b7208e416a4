"""OLMo 1: Llama with LayerNorms that have no weights, and queries, keys and values clipped."""

from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import LayerNorm, PreNorm


@dataclass(kw_only=True)
class Config(DecoderConfig):
    attention_bias: bool = False
    clip_qkv: float | None = None


def build(c: Config) -> Decoder:
    norm, rope = partial(LayerNorm, c.hidden_size, 1e-5, affine=False), recipe.rope(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, rope=rope, bias=c.attention_bias, clip=c.clip_qkv)
        return PreNorm(attention, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
