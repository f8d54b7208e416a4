"""FastVLM's processor: images as squares, filled up first, and a place for each feature that no vocabulary has."""

import re
from collections.abc import Mapping
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError
from .base import Inputs, Medium, Processor
from .squares import SquareImageProcessor
from .transforms import pad_square

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_TOKEN = -200


class FastImages(SquareImageProcessor):
    """What its makers use where the checkpoint says nothing: ``pixel_values`` (n, 3, 1024, 1024)."""

    size = Setting({"shortest_edge": 1024})
    crop_size = Setting({"height": 1024, "width": 1024})
    image_mean, image_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Padded:
    """An image processor whose images are filled up to squares of the mean's color before."""

    def __init__(self, inner: Any):
        self.inner = inner
        self._color = [int(x * 255) for x in inner.image_mean]

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        return self.inner([pad_square(image, self._color) for image in images])


class FastVLMProcessor(Processor):
    """Text is read piece by piece around the images, as its makers do: the marker is no token."""

    markers: ClassVar = {"image": "<image>"}
    places: ClassVar = {"image": "<image>"}
    inline: ClassVar = {"image": "<image>\n"}
    default_image_processor = "FastVLMImageProcessor"

    def __init__(self, tokenizer, image_processor=None, video_processor=None, settings=None, config=None):
        kind = (config or {}).get("image_aspect_ratio", "pad")
        if kind not in ("pad", "square", None):
            raise ConfigError("images can't be cut in this way", where="config.json",
                              found=f"image_aspect_ratio {kind!r}", expected="pad or square")
        image_processor = image_processor or FastImages()
        image_processor = Padded(image_processor) if kind == "pad" else image_processor
        super().__init__(tokenizer, image_processor, None, settings, config)

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        height, width = arrays["pixel_values"].shape[-2:]
        vision = self.config.get("vision_config") or {}
        stages = len(vision["layers"]) if "layers" in vision else 5
        stride = 4 * int(vision.get("down_stride") or 2) ** (stages - 1)
        return self.places["image"] * ((height // stride) * (width // stride))

    def _read(self, text: str, marked: list[re.Match], media: list[Medium], whole: bool) -> Inputs:
        ids: list[int] = []
        items, at = [], 0
        for match, medium in zip(marked, media, strict=True):
            ids += self._piece(text[at : match.start()], whole and not at)
            count, at = medium.text.count(self.places["image"]), match.end()
            items.append((len(ids), len(ids) + count, medium))
            ids += [IMAGE_TOKEN] * count
        return Inputs(ids + self._piece(text[at:], whole and not at), tuple(items), self.join)

    def _piece(self, text: str, whole: bool) -> list[int]:
        if whole:
            return self.tokenizer.encode_prompt(text)
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []
