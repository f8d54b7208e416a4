"""Phi 3 and 4: Llama with its projections fused in the checkpoint, and LongRoPE."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm
from ..weights import FUSED_MLP, FUSED_QKV, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    sliding_window: int | None = None
    attention_bias: bool = False

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, attention_bias=False)

    def rope(self, layer_type: str | None = None) -> dict:
        """The config's own settings, the length trained for among them even where they don't say it."""
        return {"original_max_position_embeddings": self.original_max_position_embeddings, **super().rope(layer_type)}


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)

    def block(i: int) -> PreNorm:
        return PreNorm(recipe.attention(c, rope=rope, window=c.sliding_window), recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


NAMES = (FUSED_QKV, FUSED_MLP)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*NAMES))
