"""Gemma 3's images: squares of one size, and for long ones crops beside the whole (pan and scan) if asked."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .base import Processor, concatenated
from .grids import pan_and_scan
from .transforms import BILINEAR, HALF, ImageProcessor, check_tiles, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image


class Gemma3ImageProcessor(ImageProcessor):
    """``pixel_values`` (1 + crops, 3, H, W) of each image, and ``num_crops``."""

    size = Setting({"height": 224, "width": 224})
    resample = BILINEAR
    image_mean = image_std = HALF
    do_pan_and_scan: bool | None = False
    pan_and_scan_min_crop_size: int = 256
    pan_and_scan_max_num_crops: int = 4
    pan_and_scan_min_ratio_to_activate: float = 1.2

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        height, width = size_pair(self.size)
        pixels, crops = [], []
        for image in images:
            parts = [image, *(image.crop(box) for box in self.boxes(image))]
            pixels += [self.values(self.resized(part, height, width)) for part in parts]
            crops.append(len(parts) - 1)
        return {"pixel_values": np.stack(pixels), "num_crops": np.array(crops)}

    def boxes(self, image: "Image") -> list[tuple[int, int, int, int]]:
        """(left, top, right, bottom) of the crops that are seen besides the whole image."""
        if not self.do_pan_and_scan:
            return []
        check_tiles(self.pan_and_scan_max_num_crops, "pan_and_scan_max_num_crops")
        return pan_and_scan((image.height, image.width), self.pan_and_scan_min_crop_size,
                            self.pan_and_scan_max_num_crops, self.pan_and_scan_min_ratio_to_activate)


class Gemma3Processor(Processor):
    """An image is its rows between two tokens, on lines of their own."""

    markers: ClassVar = {"image": "<start_of_image>"}
    places: ClassVar = {"image": "<image_soft_token>"}
    default_image_processor = "Gemma3ImageProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        count = int(self.settings.get("image_seq_length") or self.config.get("mm_tokens_per_image") or 256)
        one = f"\n\n{self.markers['image']}{self.room(count)}<end_of_image>\n\n"
        if not (crops := int(arrays["num_crops"][0])):
            return one
        more = " ".join([one] * crops)
        return f"Here is the original image {one} and here are some crops to help you see better {more}"

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return concatenated([{"pixel_values": one["pixel_values"]} for one in many])
