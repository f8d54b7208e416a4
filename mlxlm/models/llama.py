"""Llama, and what is built just like it (Mistral): pre-norm blocks, rotary positions, a gated MLP."""

from collections.abc import Callable
from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm


@dataclass(kw_only=True)
class Config(DecoderConfig):
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None  # Mistral: for every layer, unless layer_types says which
    layer_types: list[str] | None = None


def windows(c: Config) -> list[int | None]:
    """The window of each layer: None where it sees everything."""
    default = "full_attention" if c.sliding_window is None else "sliding_attention"
    kinds = recipe.layer_types(c, lambda i: default, ("full_attention", "sliding_attention"))
    return [c.sliding_window if kind == "sliding_attention" else None for kind in kinds]


def build(
    c: Config,
    *,
    qkv_bias: bool = False,
    out_bias: bool | None = None,
    head_norm: Callable | None = None,
    interleaved: bool = False,
) -> Decoder:
    """``qkv_bias`` and ``out_bias`` where attention_bias doesn't say it all; ``interleaved`` is the rope's pairing."""
    norm, rope, window = recipe.norm(c), recipe.rope(c, interleaved=interleaved), windows(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            window=window[i],
            q_norm=head_norm(c.head_dim, c.rms_norm_eps) if head_norm else None,
            k_norm=head_norm(c.head_dim, c.rms_norm_eps) if head_norm else None,
            bias=c.attention_bias or qkv_bias,
            out_bias=c.attention_bias if out_bias is None else out_bias,
        )
        return PreNorm(attention, recipe.gated_mlp(c, bias=c.mlp_bias), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
