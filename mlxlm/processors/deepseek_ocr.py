"""DeepSeek-OCR's processor: the whole page filled up to a square, and its tiles if it is large."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError
from .base import Processor
from .grids import tile_grid
from .transforms import HALF, ImageProcessor, resize

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = (127, 127, 127)


class OcrImages(ImageProcessor):
    """``pixel_values`` (n, 3, base, base), tiles (tiles, 3, tile, tile), how many, and in what (columns, rows)."""

    image_mean = image_std = HALF
    base_size: int = 1024
    tile_size: int = 640
    min_patches: int = 2
    max_patches: int = 9
    crop_to_patches: bool = True

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        grids = [self._grid(image) for image in images]
        pairs = zip(images, grids, strict=True)
        tiles = [self.values(tile) for image, grid in pairs for tile in self._tiles(image, grid)]
        empty = np.zeros((0, 3, self.tile_size, self.tile_size), np.float32)
        return {
            "pixel_values": np.stack([self.values(self._page(image)) for image in images]),
            "pixel_values_local": np.stack(tiles) if tiles else empty,
            "num_local_patches": np.array([r * c if r * c > 1 else 0 for r, c in grids], np.int32),
            "patches_grid": np.array([(c, r) for r, c in grids], np.int32),
        }

    def _grid(self, image: "Image") -> tuple[int, int]:
        """(rows, columns) of tiles; (1, 1) for an image that needs none."""
        if not self.crop_to_patches or max(image.size) <= self.tile_size:
            return 1, 1
        return tile_grid((image.height, image.width), self.min_patches, self.max_patches, self.tile_size)

    def _page(self, image: "Image") -> "Image":
        from PIL import ImageOps

        return ImageOps.pad(image, (self.base_size, self.base_size), method=self.resample, color=GREY)  # type: ignore

    def _tiles(self, image: "Image", grid: tuple[int, int]) -> "list[Image]":
        (rows, columns), side = grid, self.tile_size
        if rows * columns == 1:
            return []
        large = resize(image, rows * side, columns * side, self.resample)
        corners = [(x * side, y * side) for y in range(rows) for x in range(columns)]
        return [large.crop((x, y, x + side, y + side)) for x, y in corners]


class DeepseekOcrProcessor(Processor):
    """A place for every feature, one for the end of each line, and one for the end of the image."""

    markers: ClassVar = {"image": "<image>"}
    places: ClassVar = {"image": "<image>"}
    inline: ClassVar = {"image": "<image>\n"}
    default_image_processor = "DeepseekOcrImageProcessor"

    def __init__(self, tokenizer, image_processor=None, video_processor=None, settings=None, config=None):
        super().__init__(tokenizer, image_processor or OcrImages(), None, settings, config)
        kind = (self.config.get("vision_config") or {}).get("model_name", "deeplip_b_l")
        if kind != "deeplip_b_l":
            raise ConfigError("this processor is for DeepSeek-OCR alone", where="config.json, vision_config",
                              found=repr(kind)[:60])

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        side, tile = (self._features(arrays[name].shape[-1]) for name in ("pixel_values", "pixel_values_local"))
        columns, rows = arrays["patches_grid"][0].tolist()
        tiled = (columns * tile + 1) * rows * tile if arrays["num_local_patches"][0] else 0
        return self.places["image"] * (tiled + (side + 1) * side + 1)

    def _features(self, pixels: int) -> int:
        """Features along a side of so many pixels."""
        patch, ratio = int(self.settings.get("patch_size") or 16), int(self.settings.get("downsample_ratio") or 4)
        return -(-(pixels // patch) // ratio)

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        found = super().join(many)
        if not len(found["pixel_values_local"]):
            del found["pixel_values_local"]
        return found
