"""GPT-2: learned positions, LayerNorms, a plain MLP, and weights that the checkpoint keeps transposed."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Backbone, Decoder
from ..errors import GenerationError
from ..layers import MLP, LayerNorm, PreNorm, activation
from ..weights import GPT_NAMES, QKV, Drop, Each, Rename, swap_last


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "gelu_new"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 1024
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    n_ctx: int | None = None  # the number of positions, said again
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        recipe.only(self, add_cross_attention=False)


class Positioned(Backbone):
    """A body that adds a learned vector for each position."""

    def __init__(self, *parts, positions: int, **names):
        super().__init__(*parts, **names)
        self.wpe = nn.Embedding(positions, self.embedding.weight.shape[1])

    def __call__(self, x: mx.array, state, positions=None) -> mx.array:
        most = self.wpe.weight.shape[0]
        pads = state.left_padding or [0]
        if state.offset + x.shape[1] - min(pads) > most:
            raise GenerationError("the context is longer than the positions that the model has learned",
                                  found=state.offset + x.shape[1], expected=f"at most {most}")
        columns = mx.arange(state.offset, state.offset + x.shape[1]) - mx.array(pads)[:, None]
        return super().__call__(x + self.wpe(mx.maximum(columns, 0)), state, positions)


def build(c: Config, *, bias: bool = True) -> Decoder:
    norm, act = recipe.norm(c, LayerNorm), activation(c.hidden_act)

    def block(i: int) -> PreNorm:
        scale = c.head_dim**-0.5 if c.scale_attn_weights else 1.0
        attention = recipe.attention(c, bias=bias, scale=scale / (i + 1 if c.scale_attn_by_inverse_layer_idx else 1))
        return PreNorm(attention, MLP(c.hidden_size, c.intermediate_size, act=act, bias=bias), norm)

    return recipe.decoder(c, block, norm, backbone=partial(Positioned, positions=c.max_position_embeddings))


def thirds(weights: dict[str, mx.array], config: Config) -> dict[str, mx.array]:
    """A rule: queries, keys and values out of one tensor, along whichever axis has three times the width."""
    out, wide = {}, 3 * config.hidden_size
    for name, w in weights.items():
        head, found, kind = name.rpartition(".c_attn.")
        if not found or wide not in w.shape:
            out[name] = w
            continue
        for part, x in zip(QKV, mx.split(w, 3, axis=w.shape.index(wide)), strict=True):
            out[f"{head}.{part}.{kind}"] = x
    return out


NAMES = (
    *GPT_NAMES,
    Rename("attn.c_proj", "attn.o_proj"),
    Rename("layers.*.attn", "layers.*.self_attn"),
    Rename("mlp.c_fc", "mlp.up_proj"),
    Rename("mlp.c_proj", "mlp.down_proj"),
    Drop("self_attn.bias"),  # buffers that hold the causal mask
    Drop("self_attn.masked_bias"),
)
ARCHITECTURE = Architecture(
    Config,
    build,
    (*NAMES, thirds),
    tuple(Each(f"layers.*.{path}.weight", swap_last)
          for path in ("self_attn.*_proj", "mlp.up_proj", "mlp.down_proj")),
)
