"""BitNet b1.58: Llama with a norm before either output projection, squared ReLU, and weights of three values."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..layers import Attention, GatedMLP, PreNorm, RMSNorm
from ..layers.bit_linear import pack


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "relu2"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization_config: dict[str, Any] | None = None  # there if the weights are packed

    def __post_init__(self):
        super().__post_init__()
        settings = self.quantization_config or {}
        if settings.get("quant_method") != "bitnet":
            self.quantization_config = None
            return
        for key, known in (("quantization_mode", "offline"), ("use_rms_norm", False)):
            if settings.get(key, known) != known:
                raise ConfigError(f"quantization_config.{key} is not supported for 'bitnet'", where="config.json",
                                  found=repr(settings[key]), expected=repr(known))


class SubNormAttention(Attention):
    """Attention with a norm before its output projection."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, *, eps: float, **parts):
        super().__init__(dim, heads, kv_heads, head_dim, **parts)
        self.attn_sub_norm = RMSNorm(heads * head_dim, eps)

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        return self.o_proj(self.attn_sub_norm(self.mix(self.heads(self.q_proj(x)), x, cache, step)))


class SubNormMLP(GatedMLP):
    """A gated MLP with a norm before its output projection."""

    def __init__(self, dim: int, hidden: int, *, eps: float, **parts):
        super().__init__(dim, hidden, **parts)
        self.ffn_sub_norm = RMSNorm(hidden, eps)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self.ffn_sub_norm(self._glu(self.gate_proj(x), self.up_proj(x))))


def build(c: Config) -> Decoder:
    norm, rope, settings = recipe.norm(c), recipe.rope(c), c.quantization_config

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, SubNormAttention, rope=rope, bias=c.attention_bias, eps=c.rms_norm_eps)
        mlp = recipe.gated_mlp(c, kind=SubNormMLP, bias=c.mlp_bias, eps=c.rms_norm_eps)
        made = PreNorm(attention, mlp, norm)
        if settings is not None:
            inverted = settings.get("linear_class") != "autobitlinear"
            keep = tuple(settings.get("modules_to_not_convert") or ())
            pack(made, inverted=inverted, keep=keep, prefix=f"model.layers.{i}.")
        return made

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
