"""PaliGemma 1 and 2: SigLIP before Gemma or Gemma 2, and a prompt whose tokens all see each other."""

from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture
from ..vlm import Item, Rows, Sight, VisionLanguage
from .halves import SAVED, HalvesConfig, names, values


@dataclass(kw_only=True)
class Config(HalvesConfig):
    TEXT: ClassVar[str] = "gemma"
    IMAGE_TOKEN: ClassVar[int] = 256_000
    # Whether text alone is read both ways; with an image the prompt always is.
    TEXT_UNREAD: ClassVar[frozenset[str]] = HalvesConfig.TEXT_UNREAD | {"use_bidirectional_attention"}


class Projector(nn.Module):
    """One linear map."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.linear = nn.Linear(dim, out)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(x)


class PaliGemma(VisionLanguage):
    """A prefix model: what is asked is read both ways, what is answered is written forwards."""

    def shared(self, tokens: mx.array, seen: dict[int, list[Rows]]) -> dict[Any, mx.array]:
        """One stretch: the prompt."""
        return {"together": mx.ones(tokens.shape, mx.int32)}


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.halves()
    projector = Projector(vision.hidden_size, decoder.config.hidden_size)

    def look(item: Item) -> mx.array:
        return projector(tower(item["pixel_values"]))

    sight = Sight(("pixel_values",), c.image_token, look)
    return PaliGemma(tower, decoder, [sight], beside=("token_type_ids",), multi_modal_projector=projector)


ARCHITECTURE = Architecture(Config, build, names("multi_modal_projector"), values(), SAVED)
