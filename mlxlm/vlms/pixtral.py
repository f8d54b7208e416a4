"""Pixtral by its own name, as mlx-vlm's conversions have it: LLaVA's form with Pixtral's tower and all of its rows."""

from dataclasses import dataclass
from typing import ClassVar

from ..architecture import Architecture
from . import llava


@dataclass(kw_only=True)
class Config(llava.Config):
    TEXT: ClassVar[str] = "mistral"
    TOWER: ClassVar[str] = "pixtral"
    IMAGE_TOKEN: ClassVar[int] = 10

    vision_feature_select_strategy: str = "full"
    vision_feature_layer: int | list[int] = -1


WHOLE = llava.ARCHITECTURE
ARCHITECTURE = Architecture(Config, llava.build, WHOLE.names, WHOLE.values, WHOLE.saved)
