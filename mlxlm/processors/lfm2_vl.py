"""LFM2-VL's images: patches of any grid up to a number; large images in tiles, and a thumbnail beside them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError, MediaError
from .base import Processor, concatenated
from .grids import smart_size, tile_grid, too_large
from .transforms import BILINEAR, HALF, MOST_PIXELS, ImageProcessor, check_tiles, resize

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


class Lfm2VlImageProcessor(ImageProcessor):
    """``pixel_values`` (tiles, most, 3 * patch²), their mask (tiles, most) and ``spatial_shapes`` (tiles, 2).

    For each image also its grid of tiles (``rows``, ``cols``) and the size of the whole (``image_sizes``).
    """

    resample = BILINEAR
    image_mean = image_std = HALF
    downsample_factor: int = 2
    do_image_splitting: bool = True
    min_tiles: int = 2
    max_tiles: int = 10
    use_thumbnail: bool = True
    min_image_tokens: int = 64
    max_image_tokens: int = 256
    encoder_patch_size: int = 16
    tile_size: int = 512
    max_pixels_tolerance: float = 2.0

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        split = [self.split(image) for image in images]
        tiles = [self.patches(self.values(tile)) for tiles, _, _ in split for tile in tiles]
        most = self.most_patches
        if most * tiles[0][0].shape[1] > MOST_PIXELS:
            raise ConfigError("the settings ask for too many patches", where="preprocessor_config.json", found=most)
        if any(len(x) > most for x, _ in tiles):
            raise MediaError("the image is too long for its width", expected=f"at most {most} patches")
        return {
            "pixel_values": np.stack([np.pad(x, [(0, most - len(x)), (0, 0)]) for x, _ in tiles]),
            "pixel_attention_mask": np.stack([(np.arange(most) < len(x)).astype(np.int32) for x, _ in tiles]),
            "spatial_shapes": np.array([grid for _, grid in tiles]),
            "grid": np.array([grid for _, grid, _ in split]),
            "image_sizes": np.array([size for _, _, size in split]),
        }

    @property
    def most_patches(self) -> int:
        """What the patches of every tile are padded to."""
        tile = (self.tile_size // self.encoder_patch_size) ** 2 if self.do_image_splitting else 0
        return max(self.max_image_tokens * self.downsample_factor**2, tile)

    def split(self, image: "Image") -> "tuple[list[Image], tuple[int, int], tuple[int, int]]":
        """(tiles, their (rows, columns), the whole's (height, width)) of an image."""
        size, patch = (image.height, image.width), self.encoder_patch_size
        factor = patch * self.downsample_factor
        least, most = (n * factor**2 for n in (self.min_image_tokens, self.max_image_tokens))
        whole = smart_size(size, factor, least, most)
        splits = self.do_image_splitting and not self.min_tiles == self.max_tiles == 1
        if not splits or not too_large(size, factor, patch, most * self.max_pixels_tolerance):
            return [resize(image, *whole, self.resample)], (1, 1), whole
        check_tiles(max(self.min_tiles, self.max_tiles) ** 2, "max_tiles")  # as many grids are looked at
        rows, columns = tile_grid(size, self.min_tiles, self.max_tiles, self.tile_size)
        tile = self.tile_size
        wide = resize(image, rows * tile, columns * tile, self.resample)
        tiles = [wide.crop((x * tile, y * tile, (x + 1) * tile, (y + 1) * tile))
                 for y in range(rows) for x in range(columns)]
        if self.use_thumbnail and len(tiles) > 1:
            tiles.append(resize(image, *whole, self.resample))
        return tiles, (rows, columns), whole

    def patches(self, x: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """((patches, 3 * patch²), (rows, columns)) of pixels (3, H, W)."""
        size = self.encoder_patch_size
        channels, h, w = x.shape[0], x.shape[1] // size, x.shape[2] // size
        x = x.reshape(channels, h, size, w, size).transpose(1, 3, 2, 4, 0)
        return x.reshape(h * w, -1), (h, w)


class Lfm2VlProcessor(Processor):
    """Each tile is named by its row and column, and the thumbnail as such, between a start and an end."""

    markers: ClassVar = {"image": "<image>"}
    places: ClassVar = {"image": "<image>"}
    default_image_processor = "Lfm2VlImageProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        rows, columns = (int(n) for n in arrays["grid"][0])
        images: Any = self.image_processor
        patch, factor = images.encoder_patch_size, images.downsample_factor
        one, high, wide = (-(-(int(n) // patch) // factor) for n in (images.tile_size, *arrays["image_sizes"][0]))
        named = self.settings.get("use_image_special_tokens", True)
        pieces = [self.room(high * wide)]
        if rows * columns > 1:
            tiles = [(f"<|img_row_{y}_col_{x}|>" if named else "") + self.room(one**2)
                     for y in range(1, rows + 1) for x in range(1, columns + 1)]
            last = [("<|img_thumbnail|>" if named else "") + pieces[0]] if images.use_thumbnail else []
            pieces = [*tiles, *last]
        return "".join(["<|image_start|>", *pieces, "<|image_end|>"] if named else pieces)

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return concatenated([{name: one[name] for name in NAMES} for one in many])
