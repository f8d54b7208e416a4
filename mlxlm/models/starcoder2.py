"""StarCoder 2: LayerNorms, a plain MLP, biases everywhere, and one window for every layer."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import MLP, LayerNorm, PreNorm, activation
from ..weights import Rename, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    sliding_window: int | None = None
    use_bias: bool = True
    activation_function: str | None = None  # stands beside hidden_act in the releases, and nothing reads it
    norm_type: str = "layer_norm"
    mlp_type: str = "default"
    scale_attn_weights: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, norm_type="layer_norm", mlp_type="default", scale_attn_weights=True)


def build(c: Config) -> Decoder:
    norm, rope, act = recipe.norm(c, LayerNorm), recipe.rope(c), activation(c.hidden_act)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, rope=rope, window=c.sliding_window, bias=c.use_bias)
        return PreNorm(attention, MLP(c.hidden_size, c.intermediate_size, act=act, bias=c.use_bias), norm)

    return recipe.decoder(c, block, norm)


NAMES = (Rename("mlp.c_fc", "mlp.up_proj"), Rename("mlp.c_proj", "mlp.down_proj"))
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*NAMES))
