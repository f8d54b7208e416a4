"""MPT: no biases, not even in its LayerNorms, and ALiBi instead of positions."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..layers import MLP, LayerNorm, PreNorm, activation, alibi
from ..weights import GPT_NAMES, QKV, Rename, Split

KNOWN = {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8, "qk_ln": False, "prefix_lm": False,
         "attn_uses_sequence_id": False}  # fmt: skip


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_size: int = 2048
    num_attention_heads: int = 16
    num_hidden_layers: int = 24
    expansion_ratio: int = 4
    max_seq_len: int = 2048
    rms_norm_eps: float = 1e-5
    attn_config: dict[str, Any] = field(default_factory=dict)
    no_bias: bool = True
    logit_scale: float | str | None = None
    learned_pos_emb: bool = True  # has no effect where there is ALiBi
    norm_type: str = "low_precision_layernorm"
    embedding_fraction: float = 1.0  # scales gradients only
    tie_word_embeddings: bool = True

    def __post_init__(self):
        self.max_position_embeddings = self.max_seq_len
        self.intermediate_size = self.expansion_ratio * self.hidden_size
        super().__post_init__()
        recipe.only(self, no_bias=True, logit_scale=None, norm_type="low_precision_layernorm", expansion_ratio=4)
        for key, value in KNOWN.items():
            if self.attn_config.get(key, value) != value:
                raise ConfigError(f"attn_config.{key} is not supported for 'mpt'", where="config.json",
                                  found=repr(self.attn_config[key]), expected=repr(value))


def slopes(heads: int) -> mx.array:
    """ALiBi's slopes; where the heads are no power of two, every other one of the next power's first."""
    power = 2 ** math.ceil(math.log2(heads))
    all_of_them = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    return mx.array(all_of_them if power == heads else (all_of_them[1::2] + all_of_them[::2])[:heads])


def build(c: Config) -> Decoder:
    norm, act = recipe.norm(c, partial(LayerNorm, bias=False)), activation("gelu")
    score = alibi(slopes(c.num_attention_heads))

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, attend=score, clip=c.attn_config.get("clip_qkv"),
                                     scale=c.attn_config.get("softmax_scale"))
        return PreNorm(attention, MLP(c.hidden_size, c.intermediate_size, act=act), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        *GPT_NAMES,
        Rename("^model.blocks", "model.layers"),
        Rename("^model.norm_f", "model.norm"),
        Rename("layers.*.norm_1", "layers.*.input_layernorm"),
        Rename("layers.*.norm_2", "layers.*.post_attention_layernorm"),
        Rename("layers.*.attn", "layers.*.self_attn"),
        Rename("self_attn.out_proj", "self_attn.o_proj"),
        Rename("layers.*.ffn", "layers.*.mlp"),
        Split("Wqkv", QKV),
    ),
)
