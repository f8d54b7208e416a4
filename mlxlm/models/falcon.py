"""Falcon: attention and MLP side by side, one key and value for all heads or for each group, rope or ALiBi."""

import math
from dataclasses import dataclass

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import MLP, LayerNorm, Parallel, PreNorm, activation, alibi, attend
from ..weights import GPT_NAMES, QKV, Rename, Split, qkv_rows
from .gpt_neox import TwoNorms


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    num_kv_heads: int | None = None
    ffn_hidden_size: int | None = None
    activation: str = "gelu"
    alibi: bool = False
    bias: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    new_decoder_architecture: bool = False
    num_ln_in_parallel_attn: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self):
        groups = self.new_decoder_architecture or not self.multi_query
        self.num_key_value_heads = (self.num_kv_heads or self.num_attention_heads) if groups else 1
        super().__post_init__()
        self.intermediate_size = self.ffn_hidden_size or 4 * self.hidden_size
        if self.new_decoder_architecture:
            recipe.only(self, parallel_attn=True)


def slopes(heads: int) -> mx.array:
    """ALiBi's slopes as the paper has them: a power's own, then every other one of the next power's."""
    power = 2 ** math.floor(math.log2(heads))
    own = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-8 * i / (2 * power)) for i in range(1, 2 * (heads - power) + 1, 2)]
    return mx.array(own + between)


def build(c: Config) -> Decoder:
    norm, act = recipe.norm(c, LayerNorm), activation(c.activation)
    rope = None if c.alibi else recipe.rope(c)
    # The bias is scaled like the scores.
    score = alibi(slopes(c.num_attention_heads) * c.head_dim**-0.5) if c.alibi else attend
    two = c.new_decoder_architecture and c.num_ln_in_parallel_attn in (None, 2)
    shape = TwoNorms if two else Parallel if c.parallel_attn else PreNorm

    def block(i: int) -> PreNorm | Parallel:
        attention = recipe.attention(c, rope=rope, bias=c.bias, attend=score)
        return shape(attention, MLP(c.hidden_size, c.intermediate_size, act=act, bias=c.bias), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        *GPT_NAMES,
        Rename("^model.word_embeddings", "model.embed_tokens"),
        Rename("layers.*.ln_attn", "layers.*.input_layernorm"),
        Rename("layers.*.ln_mlp", "layers.*.post_attention_layernorm"),
        Rename("layers.*.self_attention", "layers.*.self_attn"),
        Rename("self_attn.dense", "self_attn.o_proj"),
        Rename("mlp.dense_h_to_4h", "mlp.up_proj"),
        Rename("mlp.dense_4h_to_h", "mlp.down_proj"),
        Split("query_key_value", QKV, rows=qkv_rows),
    ),
)
