"""Qwen 3 VL, the text half: Qwen 3 whose positions run in three directions that take turns."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..layers import RMSNorm
from . import llama, qwen3
from .qwen2_vl import NAMES

DIRECTIONS = {"mrope_section": [24, 20, 20], "mrope_interleaved": True}


@dataclass(kw_only=True)
class Config(qwen3.Config):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 151_936
    hidden_size: int = 4096
    intermediate_size: int = 22_016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    max_position_embeddings: int = 128_000
    rope_theta: float = 500_000.0

    def __post_init__(self):
        self.rope_parameters = {**DIRECTIONS, **(self.rope_parameters or {})}
        super().__post_init__()


ARCHITECTURE = Architecture(Config, partial(llama.build, head_norm=RMSNorm), NAMES)
