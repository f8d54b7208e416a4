"""DeepSeek-VL's processors: an image as a square, filled up with the mean's color; the larger model takes two sizes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Processor
from .transforms import CLIP_MEAN, CLIP_STD, ImageProcessor, normalize, pad_square, rescale, resize, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image


class DeepseekVLImages(ImageProcessor):
    """``pixel_values`` (n, 3, side, side): the longer side fills the square."""

    size = Setting({"height": 384, "width": 384})
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    min_size: int = 14
    do_pad: bool = True

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        made = [self.values(self.square(image, self.size, self.resample, self.image_mean)) for image in images]
        return {"pixel_values": np.stack(made)}

    def square(self, image: "Image", size: Any, resample: int, mean: Sequence[float]) -> "Image":
        """The image with its longer side as long as ``size``, in the middle of a square of the mean's color."""
        if self.do_resize:
            scale = size_pair(size)[0] / max(image.size)
            height, width = (max(round(side * scale), self.min_size) for side in (image.height, image.width))
            image = resize(image, height, width, resample)
        return pad_square(image, [int(x * 255) for x in mean]) if self.do_pad else image


class HybridImages(DeepseekVLImages):
    """Also ``high_res_pixel_values`` (n, 3, larger side, larger side), from which the small ones are made."""

    high_res_size: Any = Setting({"height": 1024, "width": 1024})
    high_res_resample: int = 3  # bicubic
    high_res_image_mean: Sequence[float] = CLIP_MEAN
    high_res_image_std: Sequence[float] = CLIP_STD

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        large = [self.square(i, self.high_res_size, self.high_res_resample, self.high_res_image_mean) for i in images]
        return {**super().__call__(large), "high_res_pixel_values": np.stack([self._large_values(i) for i in large])}

    def _large_values(self, image: "Image") -> np.ndarray:
        x = np.moveaxis(np.asarray(image), -1, 0)
        x = rescale(x, self.rescale_factor) if self.do_rescale else x.astype(np.float32)
        return normalize(x, self.high_res_image_mean, self.high_res_image_std) if self.do_normalize else x


class DeepseekVLProcessor(Processor):
    """The template's marker becomes as many of itself as the tower has patches."""

    default_image_processor = "DeepseekVLImageProcessor"

    def __init__(self, tokenizer, image_processor=None, video_processor=None, settings=None, config=None):
        super().__init__(tokenizer, image_processor, None, settings, config)
        known = tokenizer.convert_ids_to_tokens(self.config.get("image_token_id") or 100_015)
        self.markers = self.places = {"image": known or "<image_placeholder>"}  # type: ignore[misc]

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        vision = self.config.get("vision_config") or {}
        patches = (int(vision.get("image_size") or 384) // int(vision.get("patch_size") or 16)) ** 2
        return self.places["image"] * int(self.settings.get("num_image_tokens") or patches)


class HybridProcessor(DeepseekVLProcessor):
    default_image_processor = "DeepseekVLHybridImageProcessor"
