"""Qwen 2 VL: a tower with LayerNorms and plain MLPs, before Qwen 2 with positions in three directions."""

from dataclasses import dataclass, field
from functools import partial

from ..architecture import Architecture, TextHalf
from ..layers import LayerNorm, activation
from ..vision.positions import GridPositions
from ..vision.qwen import MLP, Attention, Block, GridConfig, Patches, Tower
from ..vlm import VisionLanguage
from .qwen2_5_vl import NAMES, SAVED, VALUES, Merger, sights

EPS = 1e-6


@dataclass(kw_only=True)
class VisionConfig(GridConfig):
    """``hidden_size`` is the decoder's width here, and ``embed_dim`` the tower's."""

    depth: int = 32
    embed_dim: int = 1280
    hidden_size: int = 3584
    out_hidden_size: int = 0
    mlp_ratio: float = 4
    hidden_act: str = "quick_gelu"

    def __post_init__(self):
        self.hidden_size, self.out_hidden_size = self.embed_dim, self.hidden_size
        self.intermediate_size = int(self.embed_dim * self.mlp_ratio)
        super().__post_init__()


@dataclass(kw_only=True)
class Config:
    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 151_655
    video_token_id: int = 151_656


def tower(c: VisionConfig) -> Tower:
    norm = partial(LayerNorm, c.hidden_size, EPS)

    def block() -> Block:
        mlp = MLP(c.hidden_size, c.intermediate_size, activation(c.hidden_act), ("fc1", "fc2"))
        return Block(Attention(c), mlp, norm)

    return Tower(c, Patches(c, bias=False), block, Merger(c, norm()))


def build(c: Config) -> VisionLanguage:
    seeing = tower(c.vision_config)
    kinds = ((c.image_token_id, "image_grid_thw"), (c.video_token_id, "video_grid_thw"))
    positions = GridPositions(c.vision_config.spatial_merge_size, *kinds)
    return VisionLanguage(seeing, c.text_config.build(), sights(c, seeing), positions=positions)


ARCHITECTURE = Architecture(Config, build, NAMES, VALUES, SAVED)
