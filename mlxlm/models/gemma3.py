"""Gemma 3, the text half: sandwich norms, QK norm, five sliding layers for each full one, a rope for either kind."""

from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Sandwich, UnitOffsetRMSNorm
from ..weights import Drop, Lift, Rename
from . import gemma2


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    hidden_size: int = 2304
    num_hidden_layers: int = 26
    intermediate_size: int = 9216
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    vocab_size: int = 262_208
    max_position_embeddings: int = 131_072
    query_pre_attn_scalar: float = 256
    sliding_window: int | None = 4096
    sliding_window_pattern: int = 6
    layer_types: list[str] | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    attention_bias: bool = False
    hidden_activation: str | None = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        settings = dict(self.rope_parameters or {})
        if "full_attention" not in settings:
            settings = {"full_attention": settings}
        full = {"rope_theta": 1_000_000.0, **settings["full_attention"]}
        near = {"rope_type": "default", "rope_theta": 10_000.0, **settings.get("sliding_attention", {})}
        self.rope_parameters = {"full_attention": full, "sliding_attention": near}


def build(c: Config) -> Decoder:
    norm = recipe.norm(c, UnitOffsetRMSNorm)
    head_norm = partial(UnitOffsetRMSNorm, c.head_dim, c.rms_norm_eps)
    every = c.sliding_window_pattern
    kinds = recipe.layer_types(
        c,
        lambda i: "sliding_attention" if (i + 1) % every else "full_attention",
        ("full_attention", "sliding_attention"),
    )
    ropes = {kind: recipe.rope(c, kind) for kind in ("full_attention", "sliding_attention")}

    def block(i: int) -> Sandwich:
        return gemma2.sandwich(c, kinds[i], norm, rope=ropes[kinds[i]], q_norm=head_norm(), k_norm=head_norm())

    return gemma2.decoder(c, block, norm)


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        Rename("^model.language_model", "language_model.model"),
        Lift("language_model"),
        Drop("^vision_tower"),
        Drop("^multi_modal_projector"),
        Drop("^model.vision_tower"),
        Drop("^model.multi_modal_projector"),
    ),
)
