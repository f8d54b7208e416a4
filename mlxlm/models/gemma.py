"""Gemma: Llama with norms stored as their distance from one, a GELU gate, and embeddings scaled by the width's root."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm, UnitOffsetRMSNorm


@dataclass(kw_only=True)
class Config(DecoderConfig):
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"
    hidden_activation: str | None = None  # a newer word for hidden_act
    attention_bias: bool = False
    use_bidirectional_attention: bool | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.use_bidirectional_attention:
            recipe.only(self, use_bidirectional_attention=False)
        # The first releases say "gelu" and mean the tanh formula.
        self.hidden_act = self.hidden_activation or self.hidden_act
        if self.hidden_act == "gelu":
            self.hidden_act = "gelu_pytorch_tanh"


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c, UnitOffsetRMSNorm), recipe.rope(c)

    def block(i: int) -> PreNorm:
        return PreNorm(recipe.attention(c, rope=rope, bias=c.attention_bias), recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm, embed_scale=c.hidden_size**0.5)


ARCHITECTURE = Architecture(Config, build)
