"""EXAONE 4: norms after the layers, on queries and keys too; full layers among sliding ones have no positions."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PostNorm, RMSNorm

KINDS = ("full_attention", "sliding_attention")


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = 4096
    sliding_window_pattern: int | str | None = 4  # every how many layers a full one comes, or letters: LLLG
    layer_types: list[str] | None = None


def kind(c: Config, i: int) -> str:
    """The kind of layer i by the pattern."""
    pattern = c.sliding_window_pattern
    if not pattern or c.sliding_window is None:
        return "full_attention"
    slides = pattern[i % len(pattern)] == "L" if isinstance(pattern, str) else (i + 1) % pattern != 0
    return KINDS[slides]


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)
    kinds = recipe.layer_types(c, lambda i: kind(c, i), KINDS)

    def block(i: int) -> PostNorm:
        slides = kinds[i] == "sliding_attention"
        attention = recipe.attention(
            c,
            rope=rope if slides or c.sliding_window is None else None,
            window=c.sliding_window if slides else None,
            q_norm=RMSNorm(c.head_dim, c.rms_norm_eps),
            k_norm=RMSNorm(c.head_dim, c.rms_norm_eps),
        )
        return PostNorm(attention, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
