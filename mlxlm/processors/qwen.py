"""Qwen's processors: images in patches of merged blocks, videos in pairs of frames."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Processor
from .transforms import CLIP_MEAN, CLIP_STD, HALF, ImageProcessor, check_shape, smart_resize
from .videos import Clip, VideoProcessor, even

if TYPE_CHECKING:
    from PIL.Image import Image


class Patched:
    """What images and videos share: the size in whole patches, and the patches in blocks of merged ones."""

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    size: Any = None

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

    size: ClassVar = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    image_mean, image_std = CLIP_MEAN, CLIP_STD

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._limits(settings)

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        pixels, grids = [], []
        for image in images:
            target = self.target(image.height, image.width)
            patches, grid = self.patches(self.values(self.resized(image, *target))[None])
            pixels.append(patches)
            grids.append(grid)
        return {"pixel_values": np.concatenate(pixels), "image_grid_thw": np.array(grids, np.int32)}

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image of a size gets."""
        return smart_resize(height, width, self.factor, self.size["shortest_edge"], self.size["longest_edge"])


class QwenVideos(Patched, VideoProcessor):
    """Qwen 2 VL's video processor, also that of 2.5: at 2 frames a second unless told otherwise."""

    size: ClassVar = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    fps: float | None = 2.0
    min_frames: int = 4
    max_frames: int = 768

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._limits(settings)

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        height, width = self.target(len(clip.frames), clip.height, clip.width)
        pixels, grid = self.patches(self.frame_values([self.resized(f, height, width) for f in clip.frames]))
        seconds = np.array([self.temporal_patch_size / clip.taken_fps], np.float32)
        return {"pixel_values_videos": pixels, "video_grid_thw": np.array([grid], np.int32),
                "second_per_grid_ts": seconds}

    def sample(self, total: int, fps: float) -> list[int]:
        together = self.temporal_patch_size
        if self.num_frames is not None:
            count = round(self.num_frames / together) * together
        else:
            most = min(self.max_frames, total) // together * together
            count = min(max(total / fps * (self.fps or fps), self.min_frames), most, total)
            count = math.floor(count / together) * together
        count = max(min(count, total), 1)
        return [min(int(i * np.float32(total / count)), total - 1) for i in range(count)]

    def target(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """The size of each frame."""
        return smart_resize(height, width, self.factor, self.size["shortest_edge"], self.size["longest_edge"])


class Qwen3Videos(QwenVideos):
    """Qwen 3 VL's video processor: its limits are those of all frames together."""

    size: ClassVar = {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}
    image_mean, image_std = HALF, HALF
    patch_size = 16

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        arrays = super().__call__(clip)
        del arrays["second_per_grid_ts"]
        return {**arrays, "seconds": np.array(clip.seconds)}

    def sample(self, total: int, fps: float) -> list[int]:
        count = self.num_frames
        if count is None:
            count = min(max(int(total / fps * (self.fps or fps)), self.min_frames), self.max_frames, total)
        return even(total, min(count, total))

    def target(self, frames: int, height: int, width: int) -> tuple[int, int]:
        least, most = self.size["shortest_edge"], self.size["longest_edge"]
        return smart_resize_all(frames, height, width, self.factor, self.temporal_patch_size, least, most)


def smart_resize_all(frames: int, height: int, width: int, factor: int, together: int, least: int,
                     most: int) -> tuple[int, int]:
    """As `smart_resize`, with limits on the pixels of all frames, which come ``together`` so many at a time."""
    if min(height, width) < factor:
        grow = max(factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    h, w, t = round(height / factor) * factor, round(width / factor) * factor, round(frames / together) * together
    check_shape(height, width)
    if t * h * w > most:
        shrink = math.sqrt(frames * height * width / most)
        h, w = (max(factor, math.floor(n / shrink / factor) * factor) for n in (height, width))
    elif t * h * w < least:
        grow = math.sqrt(least / (frames * height * width))
        h, w = (math.ceil(n * grow / factor) * factor for n in (height, width))
    return h, w


class Qwen2VLProcessor(Processor):
    """A marker of the template becomes as many of itself as the grid has merged patches."""

    markers: ClassVar = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    places = markers
    inline: ClassVar = {kind: f"<|vision_start|>{token}<|vision_end|>" for kind, token in markers.items()}
    default_image_processor = "Qwen2VLImageProcessor"
    default_video_processor = "Qwen2VLVideoProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.places["image"] * (int(arrays["image_grid_thw"].prod()) // self.image_processor.merge_size**2)

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.places["video"] * (int(arrays["video_grid_thw"].prod()) // self.video_processor.merge_size**2)


class Qwen2Processor(Qwen2VLProcessor):
    """Qwen 2 VL's, whose model has no use for the time between frames."""

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: x for name, x in super().join(many).items() if name != "second_per_grid_ts"}


class Qwen3VLProcessor(Qwen2VLProcessor):
    """A video's frames stand apart, each behind its time; a template's own brackets are around all of them."""

    default_video_processor = "Qwen3VLVideoProcessor"

    @classmethod
    def assumed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        vision = config.get("vision_config") or {}
        sizes = {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2}
        patch, together, merge = (vision.get(name, size) for name, size in sizes.items())
        limits = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
        return {"patch_size": patch, "temporal_patch_size": together, "merge_size": merge, "size": limits,
                "image_mean": HALF, "image_std": HALF}

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: x for name, x in super().join(many).items() if name != "seconds"}

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        _, h, w = (int(n) for n in arrays["video_grid_thw"][0])
        frame = self.places["video"] * (h * w // self.video_processor.merge_size**2)
        together, times = self.video_processor.temporal_patch_size, arrays["seconds"].tolist()
        times = times + [times[-1]] * (-len(times) % together)
        stands = [(times[i] + times[i + together - 1]) / 2 for i in range(0, len(times), together)]
        return "".join(f"<{at:.1f} seconds><|vision_start|>{frame}<|vision_end|>" for at in stands)
