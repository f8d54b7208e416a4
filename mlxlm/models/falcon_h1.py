"""Falcon-H1: Mamba 2 and attention side by side in every layer, and µP's multipliers on nearly everything."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import CompositeCache
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..kernels import ops
from ..layers import GroupedGatedNorm, swiglu
from ..layers.mamba import parts
from ..weights import Each, Rename, conv1d_to_mlx


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"mlp_expansion_factor", "time_step_min"})

    num_key_value_heads: int = 8
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 8192
    mamba_d_ssm: int | None = 1024
    mamba_n_heads: int = 128
    mamba_d_head: int | str = "auto"
    mamba_n_groups: int = 1
    mamba_d_state: int = 256
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    mamba_norm_before_gate: bool = True
    mamba_rms_norm: bool = False
    mamba_use_mlp: bool = True
    time_step_limit: tuple[float, ...] = (0.0, float("inf"))
    projectors_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    lm_head_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    key_multiplier: float = 1.0
    ssm_in_multiplier: float = 1.0
    ssm_out_multiplier: float = 1.0
    ssm_multipliers: tuple[float, ...] = (1.0,) * 5
    mlp_multipliers: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, mamba_use_mlp=True)
        inner = self.mamba_d_ssm or self.mamba_expand * self.hidden_size
        if self.mamba_d_head == "auto":
            self.mamba_d_head = inner // self.mamba_n_heads
        if self.mamba_d_head * self.mamba_n_heads != inner:
            raise ConfigError("mamba_n_heads times mamba_d_head isn't mamba_d_ssm", where="config.json", found=inner)


class NormThenGate(GroupedGatedNorm):
    """norm(x) * silu(gate), each group by itself."""

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        return swiglu(gate, self.weight * ops.rms_norm(parts(x, self.groups), None, self.eps).flatten(-2))


class Layer(nn.Module):
    """x + mamba(norm(x)) + attention(norm(x)), then the MLP."""

    def __init__(self, mamba, attention, mlp, norm):
        super().__init__()
        self.mamba, self.self_attn, self.feed_forward = mamba, attention, mlp
        self.input_layernorm, self.pre_ff_layernorm = norm(), norm()

    def make_cache(self) -> CompositeCache:
        return CompositeCache(self.mamba.make_cache(), self.self_attn.make_cache())

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        h = self.input_layernorm(x)
        x = x + self.mamba(h, cache[0], step) + self.self_attn(h, cache[1], step)
        return x + self.feed_forward(self.pre_ff_layernorm(x))


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)
    gate_norm = NormThenGate if c.mamba_norm_before_gate else GroupedGatedNorm

    def layer(i: int) -> Layer:
        mamba = recipe.mamba2(c, norm=gate_norm if c.mamba_rms_norm else None, out_bias=c.projectors_bias)
        # The keys' multiplier isn't folded into weights: mlx-lm's conversions lack it there, and so are put right.
        attention = recipe.attention(c, rope=rope, bias=c.attention_bias, scale=c.head_dim**-0.5 * c.key_multiplier)
        return Layer(mamba, attention, recipe.gated_mlp(c, bias=c.mlp_bias), norm)

    # A tied head shares the scaled embedding, so what the embedding gained is taken back here.
    factor = c.lm_head_multiplier / c.embedding_multiplier
    finish = (lambda logits: logits * factor) if c.tie_word_embeddings else None
    return recipe.decoder(c, layer, norm, finish=finish, names=("embed_tokens", "final_layernorm"))


def scaled(module: str, factor: Callable, kinds: tuple[str, ...] = ("weight", "scales", "biases")) -> Callable:
    """A rule: a module's weight times ``factor(config)``; of a quantized one the scales and offsets are."""

    def change(w: mx.array, c: Config) -> mx.array:
        return w if w.dtype == mx.uint32 else (w * factor(c)).astype(w.dtype)

    rules = [Each(f"{module}.{kind}", change) for kind in kinds]
    return lambda weights, config: [weights := rule(weights, config) for rule in rules][-1]


def rows(c: Config) -> mx.array:
    """The five multipliers of in_proj's rows (rows, 1): gate, x, B, C, dt."""
    inner, state = c.mamba_n_heads * int(c.mamba_d_head), c.mamba_n_groups * c.mamba_d_state
    sizes = (inner, inner, state, state, c.mamba_n_heads)
    return mx.concatenate([mx.full((n,), m) for n, m in zip(sizes, c.ssm_multipliers, strict=True)])[:, None]


BIASED = ("weight", "scales", "biases", "bias")
# µP multiplies activations while it runs; the factors are folded into the weights once, as mlx-lm does.
VALUES = (
    scaled("embed_tokens", lambda c: c.embedding_multiplier),
    scaled("lm_head", lambda c: c.lm_head_multiplier),
    *(scaled(f"self_attn.{p}_proj", lambda c: c.attention_in_multiplier) for p in "qkv"),
    scaled("self_attn.o_proj", lambda c: c.attention_out_multiplier, BIASED),
    scaled("mamba.in_proj", lambda c: rows(c) * c.ssm_in_multiplier),
    scaled("mamba.in_proj", lambda c: rows(c)[:, 0], ("bias",)),
    scaled("mamba.out_proj", lambda c: c.ssm_out_multiplier, BIASED),
    scaled("gate_proj", lambda c: c.mlp_multipliers[0], BIASED),
    scaled("feed_forward.down_proj", lambda c: c.mlp_multipliers[1], BIASED),
    Each("conv1d.weight", conv1d_to_mlx),
)
ARCHITECTURE = Architecture(Config, build, (Rename("^model.norm", "model.final_layernorm"),), VALUES)
