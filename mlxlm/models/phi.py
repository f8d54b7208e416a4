"""Phi 1 and 2: attention and MLP side by side off one LayerNorm, partly rotated heads, biases everywhere."""

from dataclasses import dataclass
from functools import partial

import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import MLP, LayerNorm, Parallel, activation
from ..weights import Rename, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "gelu_new"
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5
    qk_layernorm: bool = False


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c, LayerNorm), recipe.rope(c)
    head_norm = partial(LayerNorm, c.head_dim, c.rms_norm_eps)

    def block(i: int) -> Parallel:
        attention = recipe.attention(
            c,
            rope=rope,
            bias=True,
            q_norm=head_norm() if c.qk_layernorm else None,
            k_norm=head_norm() if c.qk_layernorm else None,
        )
        mlp = MLP(c.hidden_size, c.intermediate_size, act=activation(c.hidden_act), bias=True)
        return Parallel(attention, mlp, norm)

    model = recipe.decoder(c, block, norm, names=("embed_tokens", "final_layernorm"))
    if not c.tie_word_embeddings:
        model.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=True)
    return model


NAMES = (
    Rename("self_attn.dense", "self_attn.o_proj"),
    Rename("self_attn.q_layernorm", "self_attn.q_norm"),
    Rename("self_attn.k_layernorm", "self_attn.k_norm"),
    Rename("mlp.fc1", "mlp.up_proj"),
    Rename("mlp.fc2", "mlp.down_proj"),
)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*NAMES))
