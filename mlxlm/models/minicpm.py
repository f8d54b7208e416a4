"""MiniCPM: Llama with embeddings, residuals and logits scaled by what muP makes of the size."""

from dataclasses import dataclass, field

from ..architecture import Architecture
from ..decoder import Decoder
from . import granite


@dataclass(kw_only=True)
class Config(granite.Config):
    scale_emb: float = 1.0
    scale_depth: float = 1.0
    dim_model_base: int = 1
    rms_norm_eps: float = 1e-5
    attention_multiplier: float = field(default=0.0, init=False)  # Granite's words, filled from MiniCPM's
    embedding_multiplier: float = field(default=1.0, init=False)
    residual_multiplier: float = field(default=1.0, init=False)
    logits_scaling: float = field(default=1.0, init=False)
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.attention_multiplier = self.head_dim**-0.5
        self.embedding_multiplier = self.scale_emb
        self.residual_multiplier = self.scale_depth / self.num_hidden_layers**0.5
        self.logits_scaling = self.hidden_size / self.dim_model_base


def build(c: Config) -> Decoder:
    return granite.build(c)


ARCHITECTURE = Architecture(Config, build)
