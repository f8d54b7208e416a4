"""Nanbeige 4.2: Llama whose whole stack is run through several times, with keys and values of their own each time."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..decoder import Backbone, Decoder, Step
from ..layers import PreNorm
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    num_loops: int = 1
    loop_loss_weights: list[float] | None = None  # one for each time but the last; stands before num_loops
    skip_loop_final_norm: bool = False
    enable_double_loop_split: bool = False
    loop_share_kv: bool = False
    enable_depth_attention: bool = False

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, enable_double_loop_split=False, loop_share_kv=False, enable_depth_attention=False)
        self.num_loops = len(self.loop_loss_weights) + 1 if self.loop_loss_weights else max(self.num_loops, 1)


class Looped(Backbone):
    """The layers several times over; each time ends with the norm, or only the last one does."""

    def __init__(self, *parts, loops: int, skips: bool, **names):
        super().__init__(*parts, **names)
        self.loops, self.skips = loops, skips

    def __call__(self, x: mx.array, state, positions=None, shared=None) -> mx.array:
        step, count, norm = Step(x.shape[1], state, positions, shared), len(self.layers), self[self._names[1]]
        for loop in range(self.loops):
            caches = state[loop * count : (loop + 1) * count]
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, cache, step)
            x = x if self.skips else norm(x)
        state.offset += step.length
        return norm(x) if self.skips else x


class LoopedDecoder(Decoder):
    """A decoder whose layers count once for each time that they are run: each has a cache then."""

    @property
    def layers(self) -> list[PreNorm]:
        body: Any = self.backbone
        return body.layers * body.loops


def build(c: Config) -> Decoder:
    norm, rope, window = recipe.norm(c), recipe.rope(c), llama.windows(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, rope=rope, window=window[i], bias=c.attention_bias)
        return PreNorm(attention, recipe.gated_mlp(c, bias=c.mlp_bias), norm)

    made = partial(Looped, loops=c.num_loops, skips=c.skip_loop_final_norm)
    return recipe.decoder(c, block, norm, backbone=made, kind=LoopedDecoder)


ARCHITECTURE = Architecture(Config, build)
