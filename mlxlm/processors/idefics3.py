"""Idefics 3's and SmolVLM's images: tiles row by row, then the whole in a tile's size; the prompt names each tile."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Processor
from .grids import longest_edge, whole_tiles
from .transforms import HALF, LANCZOS, ImageProcessor, check_tiles, resize, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image

FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"


class Idefics3ImageProcessor(ImageProcessor):
    """``pixel_values`` (1, tiles, 3, H, W) and ``pixel_attention_mask`` (1, tiles, H, W); ``rows``, ``cols`` (n,).

    An image that isn't split has no rows and no columns, and one tile.
    """

    size = Setting({"longest_edge": 4 * 364})
    max_image_size: Any = Setting({"longest_edge": 364})
    resample = LANCZOS
    image_mean = image_std = HALF
    do_image_splitting: bool = True

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        split = [self.split(image) for image in images]
        pixels = np.stack([self.values(tile) for tiles, _, _ in split for tile in tiles])[None]
        return {
            "pixel_values": pixels,
            "pixel_attention_mask": np.ones((*pixels.shape[:2], *pixels.shape[-2:]), np.int64),
            "rows": np.array([rows for _, rows, _ in split]),
            "cols": np.array([columns for _, _, columns in split]),
        }

    def split(self, image: "Image") -> "tuple[list[Image], int, int]":
        """(tiles, rows, columns) of an image."""
        tile = int(self.max_image_size["longest_edge"])
        if self.do_resize:
            image = resize(image, *self.target(image), self.resample)
        if not self.do_image_splitting:
            return [resize(image, tile, tile, self.resample)], 0, 0
        image = resize(image, *whole_tiles((image.height, image.width), tile), self.resample)
        if image.height <= tile and image.width <= tile:
            return [image], 0, 0
        rows, columns = image.height // tile, image.width // tile
        check_tiles(rows * columns, "max_image_size")
        tiles = [image.crop((x * tile, y * tile, (x + 1) * tile, (y + 1) * tile))
                 for y in range(rows) for x in range(columns)]
        return [*tiles, resize(image, tile, tile, self.resample)], rows, columns

    def target(self, image: "Image") -> tuple[int, int]:
        """The (height, width) that an image is brought to before it is split."""
        if "longest_edge" in self.size:
            return longest_edge((image.height, image.width), int(self.size["longest_edge"]))
        return size_pair(self.size)


class Idefics3Processor(Processor):
    """Each tile is named by its row and column; the whole image comes last."""

    markers: ClassVar = {"image": "<image>"}
    places: ClassVar = {"image": "<image>"}
    default_image_processor = "Idefics3ImageProcessor"

    @property
    def tile_text(self) -> str:
        """The places of one tile."""
        return self.room(int(self.settings.get("image_seq_len") or self._rows()))

    def _rows(self) -> int:
        """The rows of a tile, where processor_config.json doesn't say."""
        vision, factor = self.config.get("vision_config") or {}, int(self.config.get("scale_factor") or 2)
        return (int(vision.get("image_size") or 364) // int(vision.get("patch_size") or 14)) ** 2 // factor**2

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        rows, columns = int(arrays["rows"][0]), int(arrays["cols"][0])
        whole = f"{FAKE}{GLOBAL}{self.tile_text}{FAKE}"
        if not rows and not columns:
            return whole
        lines = ["".join(f"{FAKE}<row_{y}_col_{x}>{self.tile_text}" for x in range(1, columns + 1))
                 for y in range(1, rows + 1)]
        return "\n".join([*lines, "", whole])

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        names = ("pixel_values", "pixel_attention_mask")
        return {name: np.concatenate([one[name] for one in many], axis=1) for name in names}
