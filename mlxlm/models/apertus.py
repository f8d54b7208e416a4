"""Apertus: Llama with a norm on every query and key, and a plain MLP whose activation xIELU has learned constants."""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import MLP, PreNorm, RMSNorm
from ..weights import Each, Rename, backwards

ROPE = {
    "rope_type": "llama3", "rope_theta": 12_000_000.0, "factor": 8.0, "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "xielu"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 12_000_000.0
    rope_parameters: dict | None = field(default_factory=lambda: dict(ROPE))
    max_position_embeddings: int = 65_536
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = True
    post_norm: bool = False

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, hidden_act="xielu", mlp_bias=False, qk_norm=True, post_norm=False)


class XIELU(nn.Module):
    """A parabola for what is above zero, an exponential below (Huang and Schlag 2024)."""

    def __init__(self):
        super().__init__()
        self.alpha_p, self.alpha_n = mx.array(0.0), mx.array(0.0)
        self.beta, self.eps = mx.array(0.5), mx.array(-1e-6)

    def __call__(self, x: mx.array) -> mx.array:
        above, below = nn.softplus(self.alpha_p), self.beta + nn.softplus(self.alpha_n)
        low = (mx.expm1(mx.minimum(x, self.eps)) - x) * below
        return (mx.where(x > 0, above * x * x, low) + self.beta * x).astype(x.dtype)


class FeedForward(MLP):
    """An MLP whose activation has weights."""

    def __init__(self, dim: int, hidden: int):
        act = XIELU()
        super().__init__(dim, hidden, act=act)
        self.act_fn = act


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            q_norm=RMSNorm(c.head_dim, c.rms_norm_eps),
            k_norm=RMSNorm(c.head_dim, c.rms_norm_eps),
            bias=c.attention_bias,
        )
        return PreNorm(attention, FeedForward(c.hidden_size, c.intermediate_size), norm)

    return recipe.decoder(c, block, norm)


def scalar(w: mx.array, config: Config) -> mx.array:
    """transformers keeps a vector of one, mlx-lm the number."""
    return w.reshape(())


NAMES = (
    Rename("layers.*.attention_layernorm", "layers.*.input_layernorm"),
    Rename("layers.*.feedforward_layernorm", "layers.*.post_attention_layernorm"),
)
SCALARS = tuple(Each(f"act_fn.alpha_{sign}", scalar) for sign in "pn")
ARCHITECTURE = Architecture(Config, build, (*NAMES, *SCALARS), saved=backwards(*NAMES))
