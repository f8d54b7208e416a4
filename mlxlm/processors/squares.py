"""Images that become squares of one size: what CLIP's, SigLIP's and LLaVA's processors do, and LLaVA's prompt."""

from collections.abc import Mapping
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError, MediaError
from .base import Processor
from .grids import shortest_edge
from .transforms import HALF, MOST_PIXELS, ImageProcessor, pad_square, size_pair

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 200  # times as long as wide


class SquareImageProcessor(ImageProcessor):
    """``pixel_values`` (n, 3, H, W): resized to a size, or by the shorter side and then cropped in the middle."""

    size = Setting({"shortest_edge": 224})
    do_center_crop: bool = True
    crop_size: Any = Setting({"height": 224, "width": 224})
    do_pad: bool = False

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([self.values(self.fitted(image)) for image in images])}

    def fitted(self, image: "Image") -> "Image":
        """The image in its final size."""
        image = self.scaled(image)
        if not self.do_center_crop:
            return image
        height, width = size_pair(self.crop_size, "crop_size")
        if not 0 < height * width <= MOST_PIXELS:
            raise ConfigError("no size that an image can have", where="preprocessor_config.json, crop_size",
                              found=f"{width} by {height} pixels")
        top, left = (image.height - height) // 2, (image.width - width) // 2
        return image.crop((left, top, left + width, top + height))  # black where the image is smaller

    def scaled(self, image: "Image") -> "Image":
        """The image resized to ``size``, or so that its shorter side is that long."""
        if isinstance(self.size, Mapping) and "shortest_edge" in self.size:
            if max(image.size) > LONGEST * min(image.size):  # else a thin line would become a vast picture
                raise MediaError("the image is too long for its width", found=f"{image.width} by {image.height} pixels",
                                 expected=f"sides of at most {LONGEST} to 1")
            return self.resized(image, *shortest_edge((image.height, image.width), int(self.size["shortest_edge"])))
        return self.resized(image, *size_pair(self.size))


class SiglipImageProcessor(SquareImageProcessor):
    """Every image is stretched to the size."""

    size = Setting({"height": 224, "width": 224})
    image_mean = image_std = HALF
    do_center_crop = False
    image_seq_length: int | None = None  # PaliGemma's: the places of an image


class LlavaImageProcessor(SquareImageProcessor):
    """May fill the image up to a square of the mean's color first."""

    def fitted(self, image: "Image") -> "Image":
        if self.do_pad:
            image = pad_square(image, [int(x * 255) for x in self.image_mean])
        return super().fitted(image)


class LlavaProcessor(Processor):
    """An image is as many places as the tower has patches, and its class token where that is shown too."""

    markers: ClassVar = {"image": "<image>"}
    places: ClassVar = {"image": "<image>"}
    default_image_processor = "CLIPImageProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        height, width = arrays["pixel_values"].shape[-2:]
        count = (height // self.patch_size) * (width // self.patch_size) + self.more_rows
        return self.room(count)

    @property
    def patch_size(self) -> int:
        """Pixels along a patch's side."""
        vision = self.config.get("vision_config") or {}
        return int(self.settings.get("patch_size") or vision.get("patch_size") or 14)

    @property
    def more_rows(self) -> int:
        """Rows that are no patches', less those that the model leaves out."""
        vision = self.config.get("vision_config") or {}
        strategy = self.settings.get("vision_feature_select_strategy") or self.config.get(
            "vision_feature_select_strategy", "default"
        )
        own = self.settings.get("num_additional_image_tokens")
        if own is None:  # older checkpoints leave it to the kind of tower
            own = int(vision.get("model_type", "clip_vision_model") == "clip_vision_model")
        return int(own) - (strategy == "default")
