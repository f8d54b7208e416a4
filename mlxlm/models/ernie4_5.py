"""ERNIE 4.5: Llama with interleaved rope, and one word for all biases."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    head_dim: int = 128
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    max_position_embeddings: int = 131_072
    use_bias: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.attention_bias = self.mlp_bias = self.use_bias


ARCHITECTURE = Architecture(Config, partial(llama.build, interleaved=True))
