"""InternVL's processors: an image as tiles of one size and a small whole of it, a video as frames of that size."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType as Setting
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ConfigError
from .base import Medium, Processor
from .messages import MediaPolicy, Source
from .transforms import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, ImageProcessor, resize, size_pair
from .videos import Clip, VideoProcessor

if TYPE_CHECKING:
    from PIL.Image import Image


class InternImages(ImageProcessor):
    """GOT-OCR's image processor, as InternVL uses it: ``pixel_values`` (tiles, 3, H, W)."""

    size = Setting({"height": 384, "width": 384})
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    min_patches: int = 1
    max_patches: int = 12
    use_thumbnail: bool = True

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([self.values(tile) for image in images for tile in self.tiles(image)])}

    def tiles(self, image: "Image") -> "list[Image]":
        """The image's tiles row by row, then the whole image if there are several."""
        height, width = size_pair(self.size)
        columns, rows = best_grid((image.height, image.width), height * width, self.min_patches, self.max_patches)
        large = resize(image, rows * height, columns * width, self.resample)
        corners = [(x * width, y * height) for y in range(rows) for x in range(columns)]
        tiles = [large.crop((x, y, x + width, y + height)) for x, y in corners]
        if self.use_thumbnail and len(tiles) > 1:
            tiles.append(resize(image, height, width, self.resample))
        return tiles


@lru_cache(maxsize=16)
def grids(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of all grids of ``least`` to ``most`` tiles, the smaller ones first, then the narrower ones."""
    every = [(w, h) for w in range(1, most + 1) for h in range(1, most + 1) if least <= w * h <= most]
    return tuple(sorted(every, key=lambda grid: grid[0] * grid[1]))


def best_grid(size: tuple[int, int], tile: int, least: int, most: int) -> tuple[int, int]:
    """(columns, rows) whose shape is nearest to the image's of ``size`` (height, width); ``tile`` is a tile's pixels.

    Of two that are equally near, the later one counts if it isn't more than twice as large as the image.
    """
    if not 1 <= least <= most:
        raise ConfigError("max_patches must be at least min_patches", where="preprocessor_config.json",
                          found=f"{least} to {most}")
    height, width = size
    best, distance = (1, 1), float("inf")
    for columns, rows in grids(least, most):
        off = abs(width / height - columns / rows)
        if off < distance or (off == distance and width * height > 0.5 * tile * columns * rows):
            best, distance = (columns, rows), off
    return best


class InternVideos(VideoProcessor):
    """``pixel_values`` (frames, 3, H, W): frames from the middles of equal parts of the video."""

    size = Setting({"height": 384, "width": 384})
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    initial_shift: Any = True

    def sample(self, total: int, fps: float) -> list[int]:
        """``num_frames`` of them, or ``fps`` a second, or 8, as its makers show it."""
        count = self.num_frames or (int(total / fps * self.fps) if self.fps else 8)
        step = total / max(1, min(count, total))
        start = step / 2 if self.initial_shift is True else float(self.initial_shift)
        return [int(i) for i in np.arange(start, total, step, dtype=np.float64)]

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        height, width = size_pair(self.size)
        return {"pixel_values": np.stack([self.values(self.resized(f, height, width)) for f in clip.frames])}


class InternVLProcessor(Processor):
    """Every tile and every frame has places of its own between <img> and </img>."""

    markers: ClassVar = {"image": "<IMG_CONTEXT>", "video": "<video>"}
    places: ClassVar = {"image": "<IMG_CONTEXT>", "video": "<IMG_CONTEXT>"}
    inline: ClassVar = {"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}
    default_image_processor = "GotOcr2ImageProcessor"
    default_video_processor = "InternVLVideoProcessor"

    @property
    def tile_rows(self) -> int:
        """Places of one tile."""
        return int(self.settings.get("image_seq_length") or self.config.get("image_seq_length") or 256)

    def _media(self, sources: list[Source], policy: MediaPolicy) -> list[Medium]:
        # For the model a frame is a tile: they come in the prompt's order, in the same arrays.
        return [replace(medium, kind="image") for medium in super()._media(sources, policy)]

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return f"<img>{self.places['image'] * (self.tile_rows * len(arrays['pixel_values']))}</img>"

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        frame = f"<img>{self.places['video'] * self.tile_rows}</img>"
        return "\n".join(f"Frame{i + 1}: {frame}" for i in range(len(arrays["pixel_values"])))


class InternVLChatProcessor(InternVLProcessor):
    """For checkpoints as the makers write them, whose config.json has the settings for tiles."""

    markers: ClassVar = {"image": "<image>", "video": "<video>"}
    inline: ClassVar = {"image": "<image>\n", "video": "<video>\n"}

    def __init__(self, tokenizer, image_processor=None, video_processor=None, settings=None, config=None):
        super().__init__(tokenizer, None, None, settings, config)
        side = self._side
        norm = {"size": {"height": side, "width": side}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
        dynamic = self.config.get("dynamic_image_size", False)
        self.image_processor = InternImages(
            **norm,
            min_patches=int(self.config.get("min_dynamic_patch") or 1) if dynamic else 1,
            max_patches=int(self.config.get("max_dynamic_patch") or 6) if dynamic else 1,
            use_thumbnail=bool(self.config.get("use_thumbnail", False)),
        )
        self.video_processor = InternVideos(**norm)

    @property
    def _vision(self) -> Mapping[str, Any]:
        return self.config.get("vision_config") or {}

    @property
    def _side(self) -> int:
        """Pixels along a side of a tile."""
        return int(self.config.get("force_image_size") or self._vision.get("image_size") or 448)

    @property
    def tile_rows(self) -> int:
        patches = self._side // int(self._vision.get("patch_size") or 14)
        return int(patches**2 * float(self.config.get("downsample_ratio") or 0.5) ** 2)
