"""Mamba 2: nothing but Mamba 2 mixers."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import Mamba2, MixerOnly, activation
from ..weights import Each, conv1d_to_mlx


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # The inner size is num_heads times head_dim, and the gate comes before the norm, whatever configs say.
    UNREAD = frozenset({"expand", "norm_before_gate", "rms_norm", "time_step_min", "intermediate_size"})

    num_heads: int = 128
    head_dim: int = 64
    state_size: int = 128
    conv_kernel: int = 4
    n_groups: int = 8
    rms_norm_eps: float = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    time_step_limit: tuple[float, ...] = (0.0, float("inf"))


def build(c: Config) -> Decoder:
    norm = recipe.norm(c)

    def layer(i: int) -> MixerOnly:
        mixer = Mamba2(
            c.hidden_size,
            c.num_heads,
            c.head_dim,
            state=c.state_size,
            groups=c.n_groups,
            conv=c.conv_kernel,
            eps=c.rms_norm_eps,
            bias=c.use_bias,
            conv_bias=c.use_conv_bias,
            act=activation(c.hidden_act),
            dt_limit=(c.time_step_limit[0], c.time_step_limit[1]),
        )
        return MixerOnly(mixer, norm())

    return recipe.decoder(c, layer, norm, names=("embeddings", "norm_f"), body="backbone")


ARCHITECTURE = Architecture(Config, build, (), (Each("conv1d.weight", conv1d_to_mlx),))
