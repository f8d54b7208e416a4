"""Mistral Small 3.1 and Ministral 3: Pixtral's features, squares of which a learned merger makes one."""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture
from ..layers import RMSNorm
from ..vision.projectors import LinearPair, fold
from ..vision.vit import chosen
from ..vlm import Item, Sight, VisionLanguage
from . import llava
from .halves import SAVED, names


@dataclass(kw_only=True)
class Config(llava.Config):
    TEXT: ClassVar[str] = "mistral"
    TOWER: ClassVar[str] = "pixtral"
    IMAGE_TOKEN: ClassVar[int] = 10

    vision_feature_select_strategy: str = "full"
    vision_feature_layer: int | list[int] = -1
    multimodal_projector_bias: bool = False
    spatial_merge_size: int = 2


class PatchMerger(nn.Module):
    """A learned mean of squares of patches: (rows, columns, dim) to (rows / size * columns / size, dim)."""

    def __init__(self, dim: int, size: int):
        super().__init__()
        self.merging_layer = nn.Linear(dim * size**2, dim, bias=False)
        self._size = size

    def __call__(self, x: mx.array) -> mx.array:
        rows, columns, dim = x.shape
        size = self._size
        x = fold(x[: rows // size * size, : columns // size * size][None], size)
        # The checkpoint's order: all patches' first features, then all their second ones.
        return self.merging_layer(x.reshape(-1, size * size, dim).swapaxes(1, 2).flatten(1))


class Projector(LinearPair):
    """A norm and the merger before the two linear maps."""

    def __init__(self, width: int, out: int, c: Config, eps: float):
        super().__init__(width * c.feature_layers, out, out, act=c.projector_hidden_act,
                         bias=c.multimodal_projector_bias)
        self.norm, self.patch_merger = RMSNorm(width, eps), PatchMerger(width, c.spatial_merge_size)

    def __call__(self, x: mx.array, grids: list[tuple[int, int]] | None = None) -> mx.array:
        """Features (all patches, width) of images of ``grids`` to rows."""
        x, rows, start = self.norm(x), [], 0
        for h, w in grids or ():
            rows.append(self.patch_merger(x[start : start + h * w].reshape(h, w, -1)))
            start += h * w
        return super().__call__(mx.concatenate(rows))


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.halves()
    projector = Projector(vision.hidden_size, decoder.config.hidden_size, c, decoder.config.rms_norm_eps)

    def look(item: Item) -> mx.array:
        sizes = llava.sizes_of(item)
        features = chosen(tower.states(item["pixel_values"], sizes), c.vision_feature_layer)
        return projector(features[0], tower.grids(sizes))

    sight = Sight(("pixel_values", "image_sizes"), c.image_token, look)
    return VisionLanguage(tower, decoder, [sight], multi_modal_projector=projector)


ARCHITECTURE = Architecture(Config, build, names("multi_modal_projector"), llava.VALUES, SAVED)
