"""Ministral 3: Mistral with YaRN, and queries that grow with their distance from the start (Llama 4's tempering)."""

from dataclasses import dataclass, field

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import PreNorm, TemperedAttention
from . import llama

ROPE = {
    "rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 16.0, "original_max_position_embeddings": 16_384,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip


@dataclass(kw_only=True)
class Config(llama.Config):
    rms_norm_eps: float = 1e-5
    rope_parameters: dict | None = field(default_factory=lambda: dict(ROPE))
    max_position_embeddings: int = 262_144


def build(c: Config) -> Decoder:
    norm, rope, window, settings = recipe.norm(c), recipe.rope(c), llama.windows(c), c.rope()
    beta, original = settings.get("llama_4_scaling_beta") or 0.0, settings.get("original_max_position_embeddings", 1)

    def temper(positions: mx.array) -> mx.array:
        return 1 + beta * mx.log(1 + positions // original)

    def block(i: int) -> PreNorm:
        parts = {"rope": rope, "window": window[i], "bias": c.attention_bias}
        attention = (
            recipe.attention(c, TemperedAttention, temper=temper, **parts) if beta else recipe.attention(c, **parts)
        )
        return PreNorm(attention, recipe.gated_mlp(c, bias=c.mlp_bias), norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build)
