"""LLaVA, and Pixtral in its form: hidden states of a tower through two linear maps into a text model.

The tower is CLIP or SigLIP, which take squares of one size, or Pixtral, which takes images of any.
"""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from ..architecture import Architecture
from ..errors import ConfigError
from ..vision.pixtral import Pixtral
from ..vision.projectors import LinearPair
from ..vision.vit import chosen
from ..vlm import Item, Sight, VisionLanguage
from .halves import SAVED, HalvesConfig, names, values


@dataclass(kw_only=True)
class Config(HalvesConfig):
    TOWER: ClassVar[str] = "clip_vision_model"
    IMAGE_TOKEN: ClassVar[int] = 32_000

    projector_hidden_act: str = "gelu"
    vision_feature_select_strategy: str = "default"
    vision_feature_layer: int | list[int] = -2
    multimodal_projector_bias: bool = True

    def __post_init__(self):
        if self.vision_feature_select_strategy not in ("default", "full"):
            raise ConfigError("vision_feature_select_strategy is not known", where="config.json",
                              found=repr(self.vision_feature_select_strategy), expected="default or full")

    @property
    def skipped(self) -> int:
        """Rows in front of the patches that aren't shown to the text model: the class token's."""
        return int(self.vision_feature_select_strategy == "default")

    @property
    def feature_layers(self) -> int:
        """How many hidden states lie side by side."""
        return 1 if isinstance(self.vision_feature_layer, int) else len(self.vision_feature_layer)


def projector(c: Config, width: int, out: int) -> LinearPair:
    """The two linear maps from a tower of ``width``."""
    bias, act = c.multimodal_projector_bias, c.projector_hidden_act
    return LinearPair(width * c.feature_layers, out, out, act=act, bias=bias)


def sizes_of(item: Item) -> list[list[int]]:
    """``image_sizes`` as numbers, or the size of the frame for all where there are none."""
    n, _, height, width = item["pixel_values"].shape
    return item["image_sizes"].tolist() if "image_sizes" in item else [[height, width]] * n  # type: ignore[return-value]


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.halves()
    pair = projector(c, vision.hidden_size, decoder.config.hidden_size)
    of_any_size = isinstance(tower, Pixtral)

    def states(item: Item) -> list[mx.array]:
        return tower.states(item["pixel_values"], sizes_of(item)) if of_any_size else tower.states(item["pixel_values"])

    def look(item: Item) -> mx.array:
        return pair(chosen(states(item), c.vision_feature_layer, skip=c.skipped))

    sight = Sight(("pixel_values", *(["image_sizes"] if of_any_size else [])), c.image_token, look)
    return VisionLanguage(tower, decoder, [sight], multi_modal_projector=pair)


# Where a tower of either kind has its patch convolution.
VALUES = (*values(), values("patch_conv")[0])
ARCHITECTURE = Architecture(Config, build, names("multi_modal_projector"), VALUES, SAVED)
