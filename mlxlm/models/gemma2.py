"""Gemma 2: sandwich norms, every other layer sliding, scores and logits softcapped."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Sandwich, Softcapped, UnitOffsetRMSNorm, attend, gated, softcap


@dataclass(kw_only=True)
class Config(DecoderConfig):
    head_dim: int = 256
    query_pre_attn_scalar: float = 256
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None
    attention_bias: bool = False
    hidden_activation: str | None = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True


def sandwich(c, kind: str, norm: Callable, **parts) -> Sandwich:
    """A layer of a ``kind``, with other ``parts`` of its attention."""
    attention = recipe.attention(
        c,
        window=c.sliding_window if kind == "sliding_attention" else None,
        scale=c.query_pre_attn_scalar**-0.5,
        bias=c.attention_bias,
        attend=Softcapped(c.attn_logit_softcapping) if c.attn_logit_softcapping else attend,
        **parts,
    )
    # hidden_act stands in configs too, and the model never read it.
    glu = gated(c.hidden_activation or "gelu_pytorch_tanh")
    return Sandwich(attention, recipe.gated_mlp(c, glu=glu), norm)


def decoder(c, block: Callable, norm: Callable) -> Decoder:
    """Gemma's scaled embedding, the layers, and logits softcapped where the config says so."""
    finish = partial(softcap, cap=c.final_logit_softcapping) if c.final_logit_softcapping else None
    return recipe.decoder(c, block, norm, embed_scale=c.hidden_size**0.5, finish=finish)


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c, UnitOffsetRMSNorm), recipe.rope(c)
    kinds = recipe.layer_types(
        c, lambda i: "full_attention" if i % 2 else "sliding_attention", ("full_attention", "sliding_attention")
    )
    return decoder(c, lambda i: sandwich(c, kinds[i], norm, rope=rope), norm)


ARCHITECTURE = Architecture(Config, build)
