"""Llama 3.2 Vision's processor: an image as tiles of a canvas that it fits into; one token stands for all of them."""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .base import Processor
from .transforms import HALF, ImageProcessor, pad, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image


class MllamaImages(ImageProcessor):
    """Pixels (1, images, tiles, 3, H, W) with zeros for tiles that an image hasn't, its shape, and which it has."""

    size = Setting({"height": 224, "width": 224})
    resample = 2  # bilinear
    image_mean = image_std = HALF
    max_image_tiles: int = 4

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        side, most = size_pair(self.size)[0], self.max_image_tiles
        pixels = np.zeros((1, len(images), most, 3, side, side), np.float32)
        ids, mask = np.zeros((1, len(images)), np.int32), np.zeros((1, len(images), most), np.int32)
        for i, image in enumerate(images):
            rows, columns = canvas((image.height, image.width), side, most)
            tiles = self._tiles(image, rows, columns, side)
            pixels[0, i, : len(tiles)], mask[0, i, : len(tiles)] = tiles, 1
            ids[0, i] = shapes(most).index((rows, columns)) + 1
        return {"pixel_values": pixels, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}

    def _tiles(self, image: "Image", rows: int, columns: int, side: int) -> np.ndarray:
        """(rows * columns, 3, side, side), row by row; black where the image doesn't reach."""
        height, width = fitted((image.height, image.width), rows * side, columns * side, side)
        x = np.moveaxis(np.asarray(image.resize((width, height), resample=self.resample)), -1, 0)  # type: ignore
        x = self.values(pad(x, rows * side, columns * side))
        return x.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)


def shapes(most: int) -> list[tuple[int, int]]:
    """(rows, columns) of all canvases of up to ``most`` tiles, in the order of their ids."""
    return [(h, w) for h in range(1, most + 1) for w in range(1, most + 1) if h * w <= most]


def canvas(size: tuple[int, int], side: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the canvas that needs the least enlarging, else the least shrinking."""
    height, width = size
    scales = {shape: min(shape[0] * side / height, shape[1] * side / width) for shape in shapes(most)}
    large = [s for s in scales.values() if s >= 1]
    chosen = min(large) if large else max(scales.values())
    return min((shape for shape, s in scales.items() if s == chosen), key=lambda shape: shape[0] * shape[1])


def fitted(size: tuple[int, int], high: int, wide: int, side: int) -> tuple[int, int]:
    """The image's size on the canvas: its own if it fits, but a tile's side at least, in its own shape."""
    height, width = size
    tall, broad = min(max(height, side), high), min(max(width, side), wide)
    by_height, by_width = tall / height, broad / width
    if by_width < by_height:
        return min(math.floor(height * by_width) or 1, tall), broad
    return tall, min(math.floor(width * by_height) or 1, broad)


class MllamaProcessor(Processor):
    """The template's marker is the token that stands for the image."""

    markers: ClassVar = {"image": "<|image|>"}
    places: ClassVar = {"image": "<|image|>"}
    default_image_processor = "MllamaImageProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.places["image"]

    def inputs(self, text, sources=(), policy=None, *, whole=False):
        """As the base; a plain text has its BOS behind the images that it begins with."""
        bos = self.tokenizer.bos_token
        if whole and bos and bos not in text:
            images = re.match(f"(?:{re.escape(self.markers['image'])})*", text)
            text = f"{images[0]}{bos}{text[images.end():]}" if images else text
        return super().inputs(text, sources, policy, whole=whole)

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([one[name] for one in many], axis=1) for name in many[0]}
