"""Phi 3.5 MoE: LayerNorms, biases, and two experts chosen one after the other by SparseMixer's margins."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import LayerNorm, PreNorm
from ..weights import Rename
from . import mixtral


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 131_072
    num_local_experts: int = 16
    num_experts_per_tok: int = 2
    router_jitter_noise: float = 0.01
    input_jitter_noise: float = 0.0  # counts in training only
    sliding_window: int | None = None
    attention_bias: bool = False
    lm_head_bias: bool = False

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, num_experts_per_tok=2)


def sparse_mixer(margin: float) -> Callable:
    """A route: the best expert, then the best of the rest, each softmaxed against its close rivals only.

    A rival is close if it is less than 2 ``margin`` below, relative to the larger of the two (Liu et al. 2024).
    """

    def best(scores: mx.array, left: mx.array) -> tuple[mx.array, mx.array]:
        top = left.max(-1, keepdims=True)
        far = (top - scores) / mx.maximum(mx.abs(scores), top) > 2 * margin
        weights = mx.softmax(mx.where(far, -mx.inf, left), axis=-1, precise=True)
        pick = mx.stop_gradient(mx.argmax(left, axis=-1, keepdims=True))
        return pick, mx.take_along_axis(weights, pick, axis=-1)

    def route(scores: mx.array) -> tuple[mx.array, mx.array]:
        first, weight = best(scores, scores)
        left = mx.put_along_axis(scores, first, mx.array(-mx.inf, scores.dtype), axis=-1)
        second, other = best(scores, left)
        return mx.concatenate([first, second], axis=-1), mx.concatenate([weight, other], axis=-1)

    return route


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c, LayerNorm), recipe.rope(c)

    def block(i: int) -> PreNorm:
        moe = recipe.routed_moe(c, c.num_local_experts, c.intermediate_size, sparse_mixer(c.router_jitter_noise))
        return PreNorm(recipe.attention(c, rope=rope, window=c.sliding_window, bias=c.attention_bias), moe, norm)

    model = recipe.decoder(c, block, norm)
    if c.lm_head_bias and not c.tie_word_embeddings:
        model.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=True)
    return model


NAMES = (*mixtral.NAMES, Rename("mlp.router", "mlp.gate"))
ARCHITECTURE = Architecture(Config, build, NAMES, saved=mixtral.SAVED)
