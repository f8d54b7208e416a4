"""GLM 4 (the first release): Llama with half of each head turned, in pairs of neighbours, and a fused MLP."""

from collections.abc import Callable
from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm
from ..weights import FUSED_MLP, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    head_dim: int = 128
    rms_norm_eps: float = 1.5625e-7
    partial_rotary_factor: float = 0.5
    attention_bias: bool = True


def build(c: Config, shape: Callable = PreNorm) -> Decoder:
    """``shape`` is the block's residual shape."""
    norm, rope = recipe.norm(c), recipe.rope(c, interleaved=True)

    def block(i: int):
        attention = recipe.attention(c, rope=rope, bias=c.attention_bias, out_bias=False)
        return shape(attention, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, (FUSED_MLP,), saved=backwards(FUSED_MLP))
