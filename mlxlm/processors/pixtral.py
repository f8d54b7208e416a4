"""Pixtral's and Mistral 3's images: of any size, in whole patches; the prompt has a token at the end of each line."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Processor, concatenated
from .grids import whole_patches
from .transforms import ImageProcessor, pad, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image


class PixtralImageProcessor(ImageProcessor):
    """``pixel_values`` (n, 3, H, W), zeros around the smaller ones, and ``image_sizes`` (n, 2) within that frame."""

    size = Setting({"longest_edge": 1024})
    patch_size: Any = Setting({"height": 16, "width": 16})

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        most = int(self.size["longest_edge"]) if "longest_edge" in self.size else 0
        frame = (most, most) if most else size_pair(self.size)
        many = []
        for image in images:
            size = whole_patches((image.height, image.width), frame, size_pair(self.patch_size, "patch_size"))
            pixels = self.values(self.resized(image, *size))
            many.append({"pixel_values": pixels[None], "image_sizes": np.array([pixels.shape[-2:]])})
        return joined(many)


class PixtralProcessor(Processor):
    """Lines of places, each ended by a break token, the last one by an end token."""

    markers: ClassVar = {"image": "[IMG]"}
    places: ClassVar = {"image": "[IMG]"}
    default_image_processor = "PixtralImageProcessor"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        vision = self.config.get("vision_config") or {}
        patch = int(self.settings.get("patch_size") or vision.get("patch_size") or 16)
        self.square = patch * int(self.settings.get("spatial_merge_size") or self.config.get("spatial_merge_size") or 1)
        if self.image_processor is not None:
            self.image_processor.patch_size = self.square

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        rows, columns = (int(n) // self.square for n in arrays["image_sizes"][0])
        line = self.room(columns)
        ends = [self.settings.get("image_break_token") or "[IMG_BREAK]"] * (rows - 1)
        return "".join(line + end for end in [*ends, self.settings.get("image_end_token") or "[IMG_END]"])

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return joined(many)


def joined(many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Images one after the other in one frame."""
    height, width = (max(one["pixel_values"].shape[axis] for one in many) for axis in (-2, -1))
    return concatenated([{**one, "pixel_values": pad(one["pixel_values"], height, width)} for one in many])
