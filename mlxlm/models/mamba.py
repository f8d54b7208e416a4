"""Mamba: nothing but Mamba mixers of the first kind."""

import math
from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Mamba, MixerOnly, activation
from ..weights import Each, conv1d_to_mlx


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"d_inner", "d_model", "n_layer", "rms_norm", "time_step_min"})

    state_size: int = 16
    conv_kernel: int = 4
    expand: float = 2
    time_step_rank: int | str = "auto"
    use_bias: bool = False
    use_conv_bias: bool = True
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True


def build(c: Config, norms: tuple | None = None) -> Decoder:
    norm = recipe.norm(c)
    rank = math.ceil(c.hidden_size / 16) if c.time_step_rank == "auto" else int(c.time_step_rank)

    def layer(i: int) -> MixerOnly:
        mixer = Mamba(
            c.hidden_size,
            c.intermediate_size or int(c.expand * c.hidden_size),
            state=c.state_size,
            rank=rank,
            conv=c.conv_kernel,
            bias=c.use_bias,
            conv_bias=c.use_conv_bias,
            act=activation(c.hidden_act),
            norms=norms,
        )
        return MixerOnly(mixer, norm())

    return recipe.decoder(c, layer, norm, names=("embeddings", "norm_f"), body="backbone")


VALUES = (Each("conv1d.weight", conv1d_to_mlx),)
ARCHITECTURE = Architecture(Config, build, (), VALUES)
