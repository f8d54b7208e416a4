"""Qwen 3 VL, dense or with experts: some of the tower's blocks speak to the decoder's first layers (deepstack)."""

from dataclasses import dataclass, field

from ..architecture import Architecture, TextHalf
from ..vision import qwen3
from ..vision.positions import GridPositions
from ..vision.qwen3 import Qwen3Tower
from ..vlm import VisionLanguage
from .qwen2_5_vl import NAMES, SAVED, VALUES, sights


@dataclass(kw_only=True)
class VisionConfig(qwen3.VisionConfig):
    deepstack_visual_indexes: list[int] = field(default_factory=lambda: [8, 16, 24])


@dataclass(kw_only=True)
class Config:
    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 151_655
    video_token_id: int = 151_656


def build(c) -> VisionLanguage:
    seeing = Qwen3Tower(c.vision_config)
    kinds = ((c.image_token_id, "image_grid_thw"), (c.video_token_id, "video_grid_thw"))
    # A video's frames stand apart in the prompt, each behind its time.
    positions = GridPositions(c.vision_config.spatial_merge_size, *kinds, framewise=("video_grid_thw",))
    return VisionLanguage(seeing, c.text_config.build(), sights(c, seeing), positions=positions)


ARCHITECTURE = Architecture(Config, build, NAMES, VALUES, SAVED)
