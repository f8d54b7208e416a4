"""Qwen 2 VL and 2.5 VL, the text half: Qwen 2 whose positions run in three directions."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..weights import Drop, Rename
from . import llama, qwen2


@dataclass(kw_only=True)
class Config(qwen2.Config):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 152_064
    hidden_size: int = 8192
    intermediate_size: int = 29_568
    num_hidden_layers: int = 80
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    max_position_embeddings: int = 32_768
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    max_window_layers: int = 80

    def __post_init__(self):
        self.rope_parameters = {"mrope_section": [16, 24, 24], **(self.rope_parameters or {})}
        super().__post_init__()


NAMES = (
    Rename("^model.language_model", "model"),  # beside the vision tower
    Rename("^language_model.model", "model"),  # as mlx-lm writes it
    Rename("^language_model.lm_head", "lm_head"),
    Drop("^visual"),
    Drop("^model.visual"),
    Drop("^vision_tower"),
)
ARCHITECTURE = Architecture(Config, partial(llama.build, qkv_bias=True), NAMES)
