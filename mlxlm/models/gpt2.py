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
from ..weights import GPT_BODY, GPT_NAMES, QKV, Drop, Each, Rename, Split, backwards, swap_last


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

    def __call__(self, x: mx.array, state, positions=None, shared=None) -> mx.array:
        most = self.wpe.weight.shape[0]
        pads = state.left_padding or [0]
        if state.offset + x.shape[1] - min(pads) > most:
            raise GenerationError("the context is longer than the positions that the model has learned",
                                  found=state.offset + x.shape[1], expected=f"at most {most}")
        columns = mx.arange(state.offset, state.offset + x.shape[1]) - mx.array(pads)[:, None]
        return super().__call__(x + self.wpe(mx.maximum(columns, 0)), state, positions, shared)


def build(c: Config, *, bias: bool = True) -> Decoder:
    norm, act = recipe.norm(c, LayerNorm), activation(c.hidden_act)

    def block(i: int) -> PreNorm:
        scale = c.head_dim**-0.5 if c.scale_attn_weights else 1.0
        attention = recipe.attention(c, bias=bias, scale=scale / (i + 1 if c.scale_attn_by_inverse_layer_idx else 1))
        return PreNorm(attention, MLP(c.hidden_size, c.intermediate_size, act=act, bias=bias), norm)

    return recipe.decoder(c, block, norm, backbone=partial(Positioned, positions=c.max_position_embeddings))


class Thirds(Split):
    """Queries, keys and values out of one tensor, along whichever axis has three times the width."""

    def axis(self, kind: str, w: mx.array, config: Config) -> int:
        wide = 3 * config.hidden_size
        return w.shape.index(wide) if wide in w.shape else super().axis(kind, w, config)


BODY = (
    *GPT_BODY,
    Rename("attn.c_proj", "attn.o_proj"),
    Rename("layers.*.attn", "layers.*.self_attn"),
    Rename("mlp.c_fc", "mlp.up_proj"),
    Rename("mlp.c_proj", "mlp.down_proj"),
)
NAMES = (
    *GPT_NAMES,
    *BODY[len(GPT_BODY) :],
    Drop("self_attn.bias"),  # buffers that hold the causal mask
    Drop("self_attn.masked_bias"),
)
THIRDS = Thirds("c_attn", QKV)
ARCHITECTURE = Architecture(
    Config,
    build,
    (*NAMES, THIRDS),
    tuple(Each(f"layers.*.{path}.weight", swap_last)
          for path in ("self_attn.*_proj", "mlp.up_proj", "mlp.down_proj")),
    saved=backwards(*BODY, THIRDS),
)
