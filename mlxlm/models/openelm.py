"""OpenELM: heads and widths that grow from layer to layer, a norm on every query and key."""

import re
from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..layers import Attention, GatedMLP, PreNorm, RMSNorm, gated
from ..weights import FUSED_MLP, QKV, Rename, Split, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    num_query_heads: list[int]
    num_kv_heads: list[int]
    ffn_multipliers: list[float]
    head_dim: int = 128
    ffn_dim_divisor: int = 256
    ffn_with_glu: bool = True
    activation_fn_name: str = "swish"
    normalization_layer_name: str = "rms_norm"
    normalize_qk_projections: bool = True
    share_input_output_layers: bool = True
    rope_freq_constant: float = 10_000
    rope_max_length: int = 4096
    max_context_length: int = 2048
    num_gqa_groups: int = 1  # this and the next two say the heads again
    qkv_multipliers: list[float] | float | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, ffn_with_glu=True, normalization_layer_name="rms_norm")
        self.tie_word_embeddings, self.rope_theta = self.share_input_output_layers, self.rope_freq_constant
        self.max_position_embeddings = self.rope_max_length
        for name in ("num_query_heads", "num_kv_heads", "ffn_multipliers"):
            if len(getattr(self, name)) != self.num_hidden_layers:
                raise ConfigError(f"{name} must have a number for every layer", where="config.json",
                                  found=len(getattr(self, name)), expected=self.num_hidden_layers)


def width(c: Config, i: int) -> int:
    """The MLP's hidden size in layer i: a multiple of the divisor, no more than a tenth below what was asked for."""
    wanted, step = c.ffn_multipliers[i] * c.hidden_size, c.ffn_dim_divisor
    rounded = max(step, int(wanted + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * wanted else rounded


def build(c: Config) -> Decoder:
    norm, rope, glu = recipe.norm(c), recipe.rope(c), gated(c.activation_fn_name)
    head_norm = partial(RMSNorm, c.head_dim, c.rms_norm_eps)

    def block(i: int) -> PreNorm:
        heads, normed = (c.num_query_heads[i], c.num_kv_heads[i]), c.normalize_qk_projections
        attention = Attention(
            c.hidden_size,
            *heads,
            c.head_dim,
            rope=rope,
            q_norm=head_norm() if normed else None,
            k_norm=head_norm() if normed else None,
        )
        return PreNorm(attention, GatedMLP(c.hidden_size, width(c, i), glu=glu), norm)

    return recipe.decoder(c, block, norm)


class SplitByLayer(Split):
    """Each layer's fused projection, by that layer's own heads."""

    def cut(self, name: str, config: Config) -> list[int]:
        found = re.search(r"layers\.(\d+)\.", name)
        i = min(int(found[1]), config.num_hidden_layers - 1) if found else 0
        return [n * config.head_dim for n in (config.num_query_heads[i], *[config.num_kv_heads[i]] * 2)]


NAMES = (
    Rename("^transformer", "model"),
    Rename("^model.token_embeddings", "model.embed_tokens"),
    Rename("layers.*.attn_norm", "layers.*.input_layernorm"),
    Rename("layers.*.ffn_norm", "layers.*.post_attention_layernorm"),
    Rename("layers.*.attn", "layers.*.self_attn"),
    Rename("layers.*.ffn", "layers.*.mlp"),
    Rename("self_attn.out_proj", "self_attn.o_proj"),
    Rename("mlp.proj_1", "mlp.gate_up_proj"),
    Rename("mlp.proj_2", "mlp.down_proj"),
    FUSED_MLP,
    SplitByLayer("qkv_proj", QKV),
)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*NAMES))
