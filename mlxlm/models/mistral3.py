"""Mistral Small 3.1 and Ministral 3, the text half of either."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..weights import Drop, Rename
from . import ministral3


@dataclass(kw_only=True)
class Config(ministral3.Config):
    rope_parameters: dict | None = None
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    intermediate_size: int = 14_336
    vocab_size: int = 32_000
    multimodal_projector_bias: bool = False  # of what lies beside, as the next two
    projector_hidden_act: str = "gelu"
    vision_feature_layer: int | list[int] = -1
    spatial_merge_size: int = 2


ARCHITECTURE = Architecture(
    Config,
    ministral3.build,
    (
        Rename("^model.language_model", "model"),
        Rename("^language_model.model", "model"),  # as mlx-lm writes it, and transformers 4
        Rename("^language_model.lm_head", "lm_head"),
        *(Drop(f"^{root}{part}") for root in ("", "model.") for part in ("vision_tower", "multi_modal_projector")),
    ),
)
