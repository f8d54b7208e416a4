"""GLM-OCR, the text half: GLM 4 without biases, turned in three directions, pairs of neighbours."""

import re
from dataclasses import dataclass

import mlx.core as mx

from ..architecture import Architecture
from ..weights import FUSED_MLP, Drop, Rename
from . import glm, glm4


@dataclass(kw_only=True)
class Config(glm.Config):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 59_392
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 0
    max_position_embeddings: int = 131_072
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False

    def __post_init__(self):
        self.rope_parameters = {"mrope_section": [8, 12, 12], **(self.rope_parameters or {})}
        super().__post_init__()


def without_ahead(weights: dict[str, mx.array], config: Config) -> dict[str, mx.array]:
    """A rule: the layer past the last one predicts ahead, and released configs may not tell of it."""
    layer = re.compile(r"^model\.layers\.(\d+)\.")
    return {n: w for n, w in weights.items() if not ((m := layer.match(n)) and int(m[1]) >= config.num_hidden_layers)}


NAMES = (
    Rename("^model.language_model", "model"),  # beside the vision tower
    Rename("^language_model.model", "model"),
    Rename("^language_model.lm_head", "lm_head"),
    Drop("^model.visual"),
    Drop("^visual"),
    Drop("^vision_tower"),
    without_ahead,
    FUSED_MLP,
)
ARCHITECTURE = Architecture(Config, glm4.BUILD, NAMES)
