"""GLM-OCR's processor: patches as Qwen's, with limits that count frames; a video is a row of images and times."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from .base import Medium, Processor, concatenated
from .messages import MediaPolicy, Source
from .qwen import QwenImages, QwenVideos, smart_resize_all
from .videos import Clip

MOST_FRAMES, LONGEST = 640, 2400  # of a video: frames taken, and seconds looked at
RATES = ((30, 3), (300, 1), (LONGEST, 0.5))  # up to how many seconds, patches of frames a second


class GlmImages(QwenImages):
    """An image counts as many frames as a patch takes."""

    size: ClassVar = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 15000}

    def target(self, height: int, width: int) -> tuple[int, int]:
        least, most, together = self.size["shortest_edge"], self.size["longest_edge"], self.temporal_patch_size
        return smart_resize_all(together, height, width, self.factor, together, least, most)


class GlmVideos(QwenVideos):
    """The longer a film, the fewer frames of a second; an even number of them."""

    size: ClassVar = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 30000}

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        height, width = self.target(len(clip.frames), clip.height, clip.width)
        pixels, (t, h, w) = self.patches(self.frame_values([self.resized(f, height, width) for f in clip.frames]))
        seconds = np.array(clip.seconds[:: self.temporal_patch_size])
        return {"pixel_values": pixels, "image_grid_thw": np.array([[1, h, w]] * t, np.int32), "seconds": seconds}

    def sample(self, total: int, fps: float) -> list[int]:
        duration = total / fps
        rate = next((rate for most, rate in RATES if duration <= most), RATES[-1][1]) * self.temporal_patch_size
        count = min(int(min(duration, LONGEST) * rate), MOST_FRAMES)
        found = [] if total < count else self._spread(total, fps, rate, int(duration))
        first, last = (found[0], found[-1]) if found and len(found) < count else (0, total - 1)
        if len(found) != count:
            found = np.linspace(first, last, count, dtype=int).tolist()
        found = list(dict.fromkeys(found)) or [0]
        return found + found[-1:] * (len(found) % 2)

    @staticmethod
    def _spread(total: int, fps: float, rate: float, end: int) -> list[int]:
        """The first frame at or behind each step of 1 / rate seconds."""
        found, due = [], 0.0
        for i in range(total):
            if i * (1 / fps) >= due:
                due += 1 / rate
                found.append(i)
                if due >= end:
                    break
        return found

    def target(self, frames: int, height: int, width: int) -> tuple[int, int]:
        least, most = self.size["shortest_edge"], self.size["longest_edge"]
        return smart_resize_all(frames, height, width, self.factor, self.temporal_patch_size, least, most)


class GlmOcrProcessor(Processor):
    """Images, and videos as one image for each pair of frames, its time behind it."""

    markers: ClassVar = {"image": "<|image|>", "video": "<|video|>"}
    places: ClassVar = {"image": "<|image|>", "video": "<|image|>"}
    inline: ClassVar = {kind: f"<|begin_of_{kind}|><|{kind}|><|end_of_{kind}|>" for kind in ("image", "video")}
    default_image_processor = "Glm46VImageProcessor"
    default_video_processor = "Glm46VVideoProcessor"

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        return self.places["image"] * (int(arrays["image_grid_thw"].prod()) // self.image_processor.merge_size**2)

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        count = int(arrays["image_grid_thw"][0].prod()) // self.video_processor.merge_size**2
        frame = f"<|begin_of_image|>{self.places['image'] * count}<|end_of_image|>"
        return "".join(f"{frame}{at:.1f} seconds" for at in arrays["seconds"].tolist())

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return concatenated([{name: x for name, x in one.items() if name != "seconds"} for one in many])

    def _media(self, sources: Sequence[Source], policy: MediaPolicy) -> list[Medium]:
        # For the model a video is a row of images: they come in the prompt's order, in the same arrays.
        return [replace(medium, kind="image") for medium in super()._media(sources, policy)]
