"""PaliGemma's prompt: the images' places first, then what is asked between a BOS and a line's end; no chat template."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from .base import Inputs, Processor
from .messages import MediaPolicy, Source


class PaliGemmaProcessor(Processor):
    """Every image is as many places as the tower has patches."""

    markers: ClassVar = {"image": "<image>"}
    places: ClassVar = {"image": "<image>"}
    both_ways = True
    default_image_processor = "SiglipImageProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.room(self.rows(arrays))

    def rows(self, arrays: Mapping[str, np.ndarray]) -> int:
        """As many as the image processor's settings say, else as the tower has patches."""
        vision = self.config.get("vision_config") or {}
        given = getattr(self.image_processor, "image_seq_length", None) or self.settings.get("image_seq_length")
        side = arrays["pixel_values"].shape[-1] // int(vision.get("patch_size") or 14)
        return int(given or side**2)

    def inputs(self, text: str, sources: Sequence[Source] = (), policy: MediaPolicy | None = None, *,
               whole: bool = False) -> Inputs:
        marker, bos = self.markers["image"], self.tokenizer.bos_token or ""
        at = text.rfind(marker) + len(marker) if marker in text else 0
        text = text if bos and text.startswith(bos, at) else text[:at] + bos + text[at:]
        return super().inputs(text if text.endswith("\n") else f"{text}\n", sources, policy)
