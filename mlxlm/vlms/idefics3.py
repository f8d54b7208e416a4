"""Idefics 3 and SmolVLM: SigLIP over tiles of any filling, squares of patches folded into one, and Llama."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..architecture import Architecture
from ..vision.projectors import fold
from ..vision.siglip import Siglip, SiglipConfig, fractional_positions
from ..vlm import Item, Sight, VisionLanguage
from ..weights import Drop, Rename, TextRules
from .halves import HalvesConfig, values


@dataclass(kw_only=True)
class Vision(SiglipConfig):
    UNREAD: ClassVar[frozenset[str]] = SiglipConfig.UNREAD | {"size", "max_image_size"}

    hidden_size: int = 1152
    intermediate_size: int = 3072
    num_attention_heads: int = 16
    patch_size: int = 32


@dataclass(kw_only=True)
class Config(HalvesConfig):
    IMAGE_TOKEN: ClassVar[int] = 128_257

    scale_factor: int = 2


class Connector(nn.Module):
    """Features (N, patches, dim) of square images to rows (N, patches / factor², out)."""

    def __init__(self, dim: int, out: int, factor: int):
        super().__init__()
        self.modality_projection = Projection(dim * factor**2, out)
        self._factor = factor

    def __call__(self, x: mx.array) -> mx.array:
        side = int(x.shape[1] ** 0.5)
        return self.modality_projection(fold(mx.unflatten(x, 1, (side, side)), self._factor).flatten(1, 2))


class Projection(nn.Module):
    """One linear map, under the checkpoint's name."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.proj = nn.Linear(dim, out, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(x)


def tiles(media: Mapping[str, mx.array]) -> list[Item]:
    """The tiles (1, channels, H, W) of all images, those left out that only fill up a batch: their pixels are 0."""
    pixels = media["pixel_values"]
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    real = np.flatnonzero(np.array((flat != 0).any(axis=(1, 2, 3))))
    mask = media.get("pixel_attention_mask")
    masks = None if mask is None else mask.reshape(-1, *mask.shape[-2:])
    return [
        {"pixel_values": flat[i : i + 1], **({} if masks is None else {"pixel_attention_mask": masks[i : i + 1]})}
        for i in real.tolist()
    ]


def filled(item: Item, size: int) -> np.ndarray:
    """(N, rows, columns) booleans: the patches of ``size`` pixels that hold some of an image."""
    n, _, height, width = item["pixel_values"].shape
    rows, columns = height // size, width // size
    if "pixel_attention_mask" not in item:
        return np.ones((n, rows, columns), bool)
    mask = np.array(item["pixel_attention_mask"])[:, : rows * size, : columns * size]
    return np.asarray(mask.reshape(n, rows, size, columns, size).any(axis=(2, 4)))


def build(c: Config) -> VisionLanguage:
    decoder, vision = c.decoder(), c.vision(Vision)
    tower = Siglip(vision)
    connector = Connector(vision.hidden_size, decoder.config.hidden_size, c.scale_factor)

    def look(item: Item) -> mx.array:
        patches = filled(item, vision.patch_size)
        grids = np.stack([patches[:, :, 0].sum(1), patches[:, 0].sum(1)], axis=1)
        positions = fractional_positions(grids, patches.shape[1:], vision.side)
        mask = None if patches.all() else mx.array(patches.reshape(len(patches), 1, 1, -1))
        return connector(tower(item["pixel_values"], mx.array(positions), mask))

    # A video is a row of frames, each with places of its own: for the model they are images.
    sight = Sight(("pixel_values", "pixel_attention_mask"), c.image_token, look, tiles)
    return VisionLanguage(tower, decoder, [sight], connector=connector)


NAMES = (
    Rename("^model.vision_model", "vision_tower"),
    Rename("^vision_model", "vision_tower"),
    Rename("^model.connector", "connector"),
    Rename("^model.text_model", "language_model.model"),
    *(Rename(f"^language_model.{part}", f"language_model.model.{part}") for part in ("embed_tokens", "layers", "norm")),
    Rename("^lm_head", "language_model.lm_head"),
    Drop("^vision_tower.embeddings.position_ids"),
    TextRules(),
)
SAVED = (
    Rename("^vision_tower", "vision_model"),
    TextRules(kind="saved"),
    Rename("^language_model.model", "language_model"),
)
ARCHITECTURE = Architecture(Config, build, NAMES, values(), SAVED)
