"""Gemma 3n's processor: an image stretched to a square, as many places as its features, on lines of their own."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from .base import Processor


class Gemma3nProcessor(Processor):
    """The template's marker is the token that keeps a place."""

    default_image_processor = "SiglipImageProcessor"
    IDS: ClassVar = {"boi_token_id": 255_999, "eoi_token_id": 262_144, "image_token_id": 262_145}

    def __init__(self, tokenizer, image_processor=None, video_processor=None, settings=None, config=None):
        super().__init__(tokenizer, image_processor, None, settings, config)
        word = {name: tokenizer.convert_ids_to_tokens(self.config.get(name) or id) for name, id in self.IDS.items()}
        self._begin, self._end = word["boi_token_id"] or "", word["eoi_token_id"] or ""
        self.markers = self.places = {"image": word["image_token_id"] or "<image_soft_token>"}  # type: ignore[misc]

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        count = self.settings.get("image_seq_length") or self.config.get("vision_soft_tokens_per_image") or 256
        return f"\n\n{self._begin}{self.places['image'] * int(count)}{self._end}\n\n"
