"""GLM-OCR: a tower with norms on queries and keys and a gated merger, before a small GLM 4."""

from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture, TextHalf
from ..kernels import ops
from ..layers import GatedMLP, LayerNorm, RMSNorm, gated
from ..vision.positions import GridPositions
from ..vision.qwen import Attention, Block, GridConfig, Patches, Tower
from ..vlm import VisionLanguage
from ..weights import Each
from .qwen2_5_vl import NAMES, SAVED, VALUES, sights


@dataclass(kw_only=True)
class VisionConfig(GridConfig):
    depth: int = 24
    hidden_size: int = 1024
    out_hidden_size: int = 1536
    intermediate_size: int = 4096
    attention_bias: bool = True
    rms_norm_eps: float = 1e-5


@dataclass(kw_only=True)
class Config:
    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 59_280
    video_token_id: int = 59_281


class Merger(GatedMLP):
    """A projection, a norm and a gated MLP over the rows."""

    def __init__(self, c: VisionConfig):
        super().__init__(c.out_hidden_size, c.out_hidden_size * c.in_channels, glu=gated(c.hidden_act))
        self.proj = nn.Linear(c.out_hidden_size, c.out_hidden_size, bias=False)
        self.post_projection_norm = LayerNorm(c.out_hidden_size, 1e-5)

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(ops.gelu(self.post_projection_norm(self.proj(x))))


class Downsample(nn.Module):
    """A block of merged patches to one row: a convolution that sees each block once."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        side = c.spatial_merge_size
        self.weight = mx.zeros((c.out_hidden_size, side, side, c.hidden_size))
        self.bias = mx.zeros((c.out_hidden_size,))

    def __call__(self, x: mx.array) -> mx.array:
        return ops.linear(x.reshape(-1, self.weight[0].size), self.weight.flatten(1), self.bias)


class OcrTower(Tower):
    """A tower with a norm and a convolution before its merger."""

    def __init__(self, c: VisionConfig):
        norm = partial(RMSNorm, c.hidden_size, c.rms_norm_eps)
        glu, bias = gated(c.hidden_act), c.attention_bias

        def block() -> Block:
            attention = Attention(c, bias=bias, norm=partial(RMSNorm, c.head_dim, c.rms_norm_eps))
            return Block(attention, GatedMLP(c.hidden_size, c.intermediate_size, glu=glu, bias=bias), norm)

        super().__init__(c, Patches(c, bias=True), block, Merger(c))
        self.post_layernorm, self.downsample = norm(), Downsample(c)

    def finished(self, x: mx.array) -> mx.array:
        return self.downsample(self.post_layernorm(x))


def build(c: Config) -> VisionLanguage:
    seeing = OcrTower(c.vision_config)
    positions = GridPositions(c.vision_config.spatial_merge_size, (c.image_token_id, "image_grid_thw"))
    return VisionLanguage(seeing, c.text_config.build(), sights(c, seeing)[:1], positions=positions)


DOWNSAMPLE = Each("^vision_tower.downsample.weight", lambda w, c: w.moveaxis(1, -1))
ARCHITECTURE = Architecture(Config, build, NAMES, (*VALUES, DOWNSAMPLE), SAVED)
