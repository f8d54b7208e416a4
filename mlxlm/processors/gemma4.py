"""Gemma 4's processors: images of any shape as patches with their places, videos as such frames with their times."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError
from .base import Processor, concatenated
from .transforms import ImageProcessor, resize
from .videos import Clip, VideoProcessor

if TYPE_CHECKING:
    from PIL.Image import Image

SOFT_TOKENS = (70, 140, 280, 560, 1120)
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class Patched:
    """What images and videos share: the size that spends a number of soft tokens, and the patches in a frame of it."""

    patch_size: int = 16
    max_soft_tokens: int = 280
    pooling_kernel_size: int = 3

    def _check(self) -> None:
        if self.max_soft_tokens not in SOFT_TOKENS:
            raise ConfigError("max_soft_tokens isn't a number that the model was trained on",
                              where="preprocessor_config.json", found=self.max_soft_tokens, expected=SOFT_TOKENS)

    @property
    def most(self) -> int:
        """Patches of an image at most; all arrays have room for so many."""
        return self.max_soft_tokens * self.pooling_kernel_size**2

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The largest size of the image's shape, in whole squares of pooled patches, that has at most so many."""
        side = self.pooling_kernel_size * self.patch_size
        factor = math.sqrt(self.most * self.patch_size**2 / (height * width))
        high, wide = (math.floor(factor * n / side) * side for n in (height, width))
        longest = self.max_soft_tokens * side
        if not high:
            high, wide = side, min(math.floor(width / height) * side, longest)
        elif not wide:
            high, wide = min(math.floor(height / width) * side, longest), side
        return high, wide

    def patches(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(channels, height, width) as patches (most, size · size · channels), and where they stand (most, 2)."""
        p = self.patch_size
        channels, height, width = x.shape
        h, w = height // p, width // p
        x = x.reshape(channels, h, p, w, p).transpose(1, 3, 2, 4, 0).reshape(h * w, -1)
        y, at = np.divmod(np.arange(h * w, dtype=np.int32), w)
        room = self.most - h * w
        return np.pad(x, ((0, room), (0, 0))), np.pad(np.stack([at, y], -1), ((0, room), (0, 0)), constant_values=-1)

    def soft_tokens(self, places: np.ndarray) -> int:
        """Rows that the tower makes of patches standing there (most, 2)."""
        return int((places[:, 0] >= 0).sum()) // self.pooling_kernel_size**2


class Gemma4Images(Patched, ImageProcessor):
    """``pixel_values`` (n, most, size · size · 3) and ``image_position_ids`` (n, most, 2), -1 where there is none."""

    image_mean, image_std, do_normalize = ZERO, ONE, False

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._check()

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        made = [self.patches(self.values(self.resized(i, *self.target(i.height, i.width)))) for i in images]
        pixels, places = zip(*made, strict=True)
        return {"pixel_values": np.stack(pixels), "image_position_ids": np.stack(places)}


class Gemma4Videos(Patched, VideoProcessor):
    """As images, under names of their own: ``num_frames`` of them, evenly over the video."""

    image_mean, image_std = ZERO, ONE
    max_soft_tokens = 70
    num_frames = 32

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._check()

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        target = self.target(clip.height, clip.width)
        made = [self.patches(self.values(resize(f, *target, self.resample))) for f in clip.frames]
        pixels, places = zip(*made, strict=True)
        return {"pixel_values_videos": np.stack(pixels), "video_position_ids": np.stack(places),
                "num_frames_per_video": np.array([len(pixels)], np.int32),
                "seconds": np.array(clip.seconds, np.float32)}  # fmt: skip


class Gemma4Processor(Processor):
    """As many image tokens as there are soft tokens, between the tokens for an image's beginning and end."""

    default_image_processor = "Gemma4ImageProcessor"
    default_video_processor = "Gemma4VideoProcessor"
    IDS: ClassVar = {
        "boi_token_id": 255_999, "eoi_token_id": 258_882, "image_token_id": 258_880, "video_token_id": 258_884,
    }  # fmt: skip

    def __init__(self, tokenizer, image_processor=None, video_processor=None, settings=None, config=None):
        super().__init__(tokenizer, image_processor, video_processor, settings, config)
        word = {name: tokenizer.convert_ids_to_tokens(self.config.get(name) or id) for name, id in self.IDS.items()}
        self._begin, self._end = word["boi_token_id"] or "", word["eoi_token_id"] or ""
        found = {"image": word["image_token_id"], "video": word["video_token_id"]}
        self.markers = self.places = {kind: token for kind, token in found.items() if token}  # type: ignore[misc]

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        count = sum(self.image_processor.soft_tokens(p) for p in arrays["image_position_ids"])
        return f"{self._begin}{self.places['image'] * count}{self._end}"

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return concatenated([{name: x for name, x in one.items() if name != "seconds"} for one in many])

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        frames = []
        for seconds, places in zip(arrays["seconds"].tolist(), arrays["video_position_ids"], strict=True):
            tokens = self.places["video"] * self.video_processor.soft_tokens(places)
            frames.append(f"{int(seconds // 60):02d}:{int(seconds % 60):02d} {self._begin}{tokens}{self._end}")
        return " ".join(frames)
