"""Command R: attention and MLP side by side off one LayerNorm without bias, interleaved rope, scaled logits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import HeadLayerNorm, LayerNorm, Parallel


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    max_position_embeddings: int = 8192
    logit_scale: float = 0.0625
    attention_bias: bool = False
    use_qk_norm: bool = False
    tie_word_embeddings: bool = True


def build(c: Config, window: Callable[[int], int | None] | None = None) -> Decoder:
    """Layers for which ``window`` gives none have no positions; without ``window`` every layer has them."""
    norm = recipe.norm(c, partial(LayerNorm, bias=False))
    rope = recipe.rope(c, interleaved=True)

    def head_norm(heads: int):
        return HeadLayerNorm(heads, c.head_dim, c.rms_norm_eps) if c.use_qk_norm else None

    def block(i: int) -> Parallel:
        slides = window(i) if window else None
        attention = recipe.attention(
            c,
            rope=rope if slides or not window else None,
            window=slides,
            q_norm=head_norm(c.num_attention_heads),
            k_norm=head_norm(c.num_key_value_heads),
            bias=c.attention_bias,
        )
        return Parallel(attention, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm, finish=lambda logits: logits * c.logit_scale)


ARCHITECTURE = Architecture(Config, build)
