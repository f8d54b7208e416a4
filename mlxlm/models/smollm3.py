"""SmolLM 3: Llama with every fourth layer left without positions."""

from dataclasses import dataclass, field

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import PreNorm
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    rope_theta: float = 2_000_000.0
    tie_word_embeddings: bool = True
    no_rope_layers: list[int] = field(default_factory=list)  # 1 where a layer has positions, 0 where it has none
    no_rope_layer_interval: int = 4

    def __post_init__(self):
        super().__post_init__()
        if not self.no_rope_layers:
            every = self.no_rope_layer_interval
            self.no_rope_layers = [int((i + 1) % every != 0) for i in range(self.num_hidden_layers)]
        if self.layer_types is None:
            self.layer_types = ["full_attention"] * self.num_hidden_layers


def build(c: Config) -> Decoder:
    norm, rope, window = recipe.norm(c), recipe.rope(c), llama.windows(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c, rope=rope if c.no_rope_layers[i] else None, window=window[i], bias=c.attention_bias
        )
        return PreNorm(attention, recipe.gated_mlp(c, bias=c.mlp_bias), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
