"""Qwen 3.5, dense or with experts: Qwen 3's tower without taps, before delta nets and gated attention."""

from dataclasses import dataclass, field

from ..architecture import Architecture, TextHalf
from ..vision.qwen3 import VisionConfig
from ..weights import Drop
from . import qwen3_vl
from .qwen2_5_vl import NAMES, SAVED, VALUES


@dataclass(kw_only=True)
class Config:
    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 248_056
    video_token_id: int = 248_057


ARCHITECTURE = Architecture(Config, qwen3_vl.build, (Drop("^mtp"), *NAMES), VALUES, SAVED)
