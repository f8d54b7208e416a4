"""StableLM 2: Llama with LayerNorms and partly rotated heads; the larger ones run attention and MLP side by side."""

import re
from dataclasses import dataclass

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import HeadLayerNorm, LayerNorm, Parallel, PreNorm


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.25
    max_position_embeddings: int = 4096
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False
    rope_pct: float | None = None  # partial_rotary_factor, said again


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c, LayerNorm), recipe.rope(c)
    shape = Parallel if c.use_parallel_residual else PreNorm

    def head_norm(heads: int):
        return HeadLayerNorm(heads, c.head_dim, c.rms_norm_eps) if c.qk_layernorm else None

    def block(i: int) -> Parallel | PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            bias=c.use_qkv_bias,
            out_bias=False,
            q_norm=head_norm(c.num_attention_heads),
            k_norm=head_norm(c.num_key_value_heads),
        )
        return shape(attention, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


def head_norms(weights: dict[str, mx.array], config: Config) -> dict[str, mx.array]:
    """A rule: a norm for each head, ``q_layernorm.norms.3.weight``, to one weight for all, ``q_norm.weight``."""
    out, heads = {}, {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for name, w in weights.items():
        match = re.fullmatch(r"(.+)\.([qk])_layernorm\.norms\.\d+\.weight", name)
        if not match:
            out[name] = w
            continue
        parts = [f"{match[1]}.{match[2]}_layernorm.norms.{i}.weight" for i in range(heads[match[2]])]
        if all(part in weights for part in parts):
            out[f"{match[1]}.{match[2]}_norm.weight"] = mx.stack([weights[part] for part in parts])
    return out


def norms_apart(weights: dict[str, mx.array], config: Config) -> dict[str, mx.array]:
    """``head_norms`` undone."""
    out = {}
    for name, w in weights.items():
        match = re.fullmatch(r"(.+)\.([qk])_norm\.weight", name)
        several = {f"{match[1]}.{match[2]}_layernorm.norms.{i}.weight": x for i, x in enumerate(w)} if match else {}
        out |= several or {name: w}
    return out


ARCHITECTURE = Architecture(Config, build, (head_norms,), saved=(norms_apart,))
