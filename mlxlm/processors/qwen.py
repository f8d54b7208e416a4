"""Qwen's processors, and GLM-OCR's which differs in names: images in patches of merged blocks, videos in pairs of frames."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Processor
from .transforms import CLIP_MEAN, CLIP_STD, ImageProcessor, resize, smart_resize
from .videos import Clip, VideoProcessor

if TYPE_CHECKING:
    from PIL.Image import Image


class Patched:
    """What images and videos share: the size in whole patches, and the patches in blocks of merged ones."""

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    size: Any

    def _limits(self, settings: Mapping[str, Any]) -> None:
        """``min_pixels`` and ``max_pixels`` are the older words for the two of ``size``."""
        own = type(self).size
        size = {**own, **(settings.get("size") or {})}
        least = settings.get("min_pixels") or size.get("min_pixels") or size["shortest_edge"]
        most = settings.get("max_pixels") or size.get("max_pixels") or size["longest_edge"]
        self.size = {"shortest_edge": int(least), "longest_edge": int(most)}

    @property
    def factor(self) -> int:
        """The multiple that sides are rounded to."""
        return self.patch_size * self.merge_size

    def patches(self, frames: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """(frames, channels, height, width) as ((t·h·w, channels · frames · size · size), (t, h, w)).

        The last frame stands also for those that a whole patch would need.
        """
        p, m, together = self.patch_size, self.merge_size, self.temporal_patch_size
        if missing := -len(frames) % together:
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        count, channels, height, width = frames.shape
        t, h, w = count // together, height // p, width // p
        x = frames.reshape(t, together, channels, h // m, m, p, w // m, m, p).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return x.reshape(t * h * w, channels * together * p * p), (t, h, w)


class QwenImages(Patched, ImageProcessor):
    """Qwen 2 VL's image processor, which 2.5 and 3 use with other settings."""

    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    image_mean, image_std = CLIP_MEAN, CLIP_STD

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._limits(settings)

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        pixels, grids = [], []
        for image in images:
            least, most = self.size["shortest_edge"], self.size["longest_edge"]
            target = smart_resize(image.height, image.width, self.factor, least, most)
            patches, grid = self.patches(self.values(self.resized(image, *target))[None])
            pixels.append(patches)
            grids.append(grid)
        return {"pixel_values": np.concatenate(pixels), "image_grid_thw": np.array(grids, np.int32)}


class QwenVideos(Patched, VideoProcessor):
    """Qwen 2 VL's video processor, also that of 2.5: at 2 frames a second unless told otherwise."""

    size = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    fps: float | None = 2.0
    min_frames: int = 4
    max_frames: int = 768

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._limits(settings)

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        least, most = self.size["shortest_edge"], self.size["longest_edge"]
        height, width = self.target(len(clip.frames), clip.height, clip.width, least, most)
        frames = np.stack([self.values(resize(f, height, width, self.resample)) for f in clip.frames])
        pixels, grid = self.patches(frames)
        return {"pixel_values_videos": pixels, "video_grid_thw": np.array([grid], np.int32)}

    def target(self, frames: int, height: int, width: int, least: int, most: int) -> tuple[int, int]:
        """The size of each frame."""
        return smart_resize(height, width, self.factor, least, most)


class Qwen2VLProcessor(Processor):
    """A marker of the template becomes as many of itself as the grid has merged patches."""

    markers = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    places = markers
    inline = {kind: f"<|vision_start|>{token}<|vision_end|>" for kind, token in markers.items()}
    default_image_processor = "Qwen2VLImageProcessor"
    default_video_processor = "Qwen2VLVideoProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.places["image"] * (int(arrays["image_grid_thw"].prod()) // self.image_processor.merge_size**2)

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.places["video"] * (int(arrays["video_grid_thw"].prod()) // self.video_processor.merge_size**2)
