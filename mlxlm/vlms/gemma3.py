"""Gemma 3: SigLIP whose patches are pooled to 256 rows an image, which see each other whatever their order."""

from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture
from ..kernels import ops
from ..layers import UnitOffsetRMSNorm
from ..vision.vit import VisionConfig
from ..vlm import Item, Rows, Sight, VisionLanguage, runs
from .halves import SAVED, HalvesConfig, names, values


@dataclass(kw_only=True)
class Config(HalvesConfig):
    TEXT: ClassVar[str] = "gemma3_text"
    IMAGE_TOKEN: ClassVar[int] = 262_144

    mm_tokens_per_image: int = 256


class Projector(nn.Module):
    """Features (N, patches, dim) to rows (N, tokens, out): means over squares of patches, normed and projected."""

    def __init__(self, vision: VisionConfig, out: int, tokens: int):
        super().__init__()
        self.mm_input_projection_weight = mx.zeros((vision.hidden_size, out))
        self.mm_soft_emb_norm = UnitOffsetRMSNorm(vision.hidden_size, vision.layer_norm_eps)
        self._side, self._square = vision.side, max(vision.side // max(int(tokens**0.5), 1), 1)

    def __call__(self, x: mx.array) -> mx.array:
        n, _, dim = x.shape
        k, rows = self._square, self._side // self._square
        x = x.reshape(n, self._side, self._side, dim)[:, : rows * k, : rows * k]
        x = x.reshape(n, rows, k, rows, k, dim).mean((2, 4)).reshape(n, rows * rows, dim)
        return ops.matmul(self.mm_soft_emb_norm(x), self.mm_input_projection_weight)


class Gemma3(VisionLanguage):
    """The rows of an image see each other."""

    def shared(self, tokens: mx.array, seen: dict[int, list[Rows]]) -> dict[Any, mx.array]:
        return {"together": runs(tokens, seen)}


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.halves()
    projector = Projector(vision, decoder.config.hidden_size, c.mm_tokens_per_image)

    def look(item: Item) -> mx.array:
        return projector(tower(item["pixel_values"]))

    sight = Sight(("pixel_values",), c.image_token, look)
    return Gemma3(tower, decoder, [sight], beside=("token_type_ids",), multi_modal_projector=projector)


ARCHITECTURE = Architecture(Config, build, names("multi_modal_projector"), values(), SAVED)
