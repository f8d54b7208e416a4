"""LLaVA-NeXT's images: the whole in the tower's size, then tiles of the frame that fits the image best."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from .base import concatenated
from .grids import best_frame, within
from .squares import LlavaProcessor, SquareImageProcessor
from .transforms import check_tiles, resize, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


class LlavaNextImageProcessor(SquareImageProcessor):
    """``pixel_values`` (n, 1 + tiles, 3, H, W), and ``image_sizes`` (n, 2) in pixels as they came."""

    do_pad = True
    image_grid_pinpoints: Any = FRAMES

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        many = [self._parts(image) for image in images]
        return joined(many)

    def _parts(self, image: "Image") -> dict[str, np.ndarray]:
        whole = resize(image, *size_pair(self.size), self.resample)
        parts = [whole, *self.tiles(image)]
        pixels = np.stack([self.values(self.fitted(part)) for part in parts])
        return {"pixel_values": pixels[None], "image_sizes": np.array([[image.height, image.width]])}

    def tiles(self, image: "Image") -> "list[Image]":
        """The tiles of the best frame, black where the image doesn't fill it."""
        side = size_pair(self.crop_size, "crop_size")[0] if self.crop_size else size_pair(self.size)[0]
        size = (image.height, image.width)
        high, wide = best_frame(size, self.image_grid_pinpoints)
        height, width = within(size, (high, wide))
        if height < 1 or width < 1:
            raise ConfigError("image_grid_pinpoints leaves no room for an image", where="preprocessor_config.json")
        image = resize(image, height, width, self.resample)
        check_tiles(high * wide // max(side**2, 1), "crop_size")
        left, top = (wide - width) // 2, (high - height) // 2
        framed = image.crop((-left, -top, wide - left, high - top))
        return [framed.crop((x, y, min(x + side, wide), min(y + side, high)))
                for y in range(0, high, side) for x in range(0, wide, side)]


class LlavaNextProcessor(LlavaProcessor):
    """An image is the rows of the whole, those of the tiles without their padding, and one for the end of each line."""

    default_image_processor = "LlavaNextImageProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        side_h, side_w = (n // self.patch_size for n in arrays["pixel_values"].shape[-2:])
        height, width = (int(n) for n in arrays["image_sizes"][0])
        frame = best_frame((height, width), getattr(self.image_processor, "image_grid_pinpoints", FRAMES))
        rows = frame[0] // arrays["pixel_values"].shape[-2] * side_h
        columns = frame[1] // arrays["pixel_values"].shape[-1] * side_w
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        return self.room(side_h * side_w + self.more_rows + rows * (columns + 1))

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return joined(many)


def joined(many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Images one after the other, those of fewer tiles filled up with zeros."""
    most = max(one["pixel_values"].shape[1] for one in many)

    def filled(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, 0), (0, most - x.shape[1]), (0, 0), (0, 0), (0, 0)])

    return concatenated([{**one, "pixel_values": filled(one["pixel_values"])} for one in many])
