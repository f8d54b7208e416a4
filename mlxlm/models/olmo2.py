"""OLMo 2: norms after the layers instead of before, and all heads of queries or keys normed as one."""

from collections.abc import Callable
from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import FlatRMSNorm, PostNorm


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False


def build(c: Config, parts: Callable[[int], dict] | None = None) -> Decoder:
    """``parts(i)`` are the rope and the window of layer i, where they differ."""
    norm, rope = recipe.norm(c), recipe.rope(c, "full_attention")

    def block(i: int) -> PostNorm:
        own = parts(i) if parts else {}
        attention = recipe.attention(
            c,
            rope=own.get("rope", rope),
            window=own.get("window"),
            q_norm=FlatRMSNorm(c.num_attention_heads * c.head_dim, c.rms_norm_eps),
            k_norm=FlatRMSNorm(c.num_key_value_heads * c.head_dim, c.rms_norm_eps),
            bias=c.attention_bias,
        )
        return PostNorm(attention, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
