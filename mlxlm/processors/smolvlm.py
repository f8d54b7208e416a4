"""SmolVLM's videos beside Idefics 3's images: frames in a tile's size, each announced by its minute and second."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType as Setting
from typing import Any, ClassVar

import numpy as np

from .base import Medium
from .grids import longest_edge
from .idefics3 import FAKE, GLOBAL, Idefics3Processor
from .messages import MediaPolicy, Source
from .transforms import HALF, LANCZOS, resize
from .videos import Clip, VideoProcessor

LARGEST = 4096  # pixels along a side that a frame is brought to


class SmolVLMVideos(VideoProcessor):
    """``pixel_values`` (1, frames, 3, H, W) and their mask; ``seconds`` (frames,) and ``duration`` (1,)."""

    size = Setting({"longest_edge": 4 * 364})
    max_image_size: Any = Setting({"longest_edge": 364})
    resample = LANCZOS
    image_mean = image_std = HALF
    fps = 1
    num_frames = 64
    skip_secs: float = 1

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        if sampling := settings.get("video_sampling"):
            self.num_frames = sampling.get("max_frames") or self.num_frames
            self.fps = sampling.get("fps") or self.fps
            self.size = sampling.get("video_size") or self.size

    def sample(self, total: int, fps: float) -> list[int]:
        """Evenly spread frames, at most ``num_frames``; of a long video without its first and last second."""
        rate, most = float(self.fps or 1), int(self.num_frames or 64)
        seconds = total / fps
        count = max(min(round(rate * seconds), most), 1)
        first, last = 0, total - 1
        if self.skip_secs > 0 and seconds - 2 * self.skip_secs > most * rate:
            first, last = int(self.skip_secs * fps), min(int(total - self.skip_secs * fps), total - 1)
        first, last = (first, last) if first < last else (0, total - 1)
        return np.unique(np.linspace(first, last, count, dtype=int)).tolist()

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:  # type: ignore[override]
        tile = int(self.max_image_size["longest_edge"])
        frames = []
        for frame in clip.frames:
            if "longest_edge" in self.size:
                size = longest_edge((frame.height, frame.width), min(int(self.size["longest_edge"]), LARGEST))
                frame = resize(frame, *size, self.resample)
            frames.append(self.values(resize(frame, tile, tile, self.resample)))
        pixels = np.stack(frames)[None]
        seconds = clip.seconds
        whole = clip.duration if clip.duration is not None else seconds[-1]
        return {
            "pixel_values": pixels,
            "pixel_attention_mask": np.ones((*pixels.shape[:2], *pixels.shape[-2:]), np.int64),
            "seconds": np.array(seconds),
            "duration": np.array([whole]),
        }


class SmolVLMProcessor(Idefics3Processor):
    """A video is a sentence, and its frames as single images, each after its time."""

    markers: ClassVar = {"image": "<image>", "video": "<video>"}
    default_video_processor = "SmolVLMVideoProcessor"

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        seconds = arrays["seconds"]
        whole = timedelta(seconds=int(arrays["duration"][0]))
        count = in_words(len(seconds))
        intro = f"You are provided the following series of {count} frames from a {whole} [H:MM:SS] video.\n"
        frame = f"{FAKE}{GLOBAL}{self.tile_text}{FAKE}"
        times = [f"{int(s // 60):02d}:{int(s % 60):02d}" for s in seconds]
        return intro + "".join(f"\nFrame from {time}:{frame}" for time in times) + "\n\n"

    def _media(self, sources: list[Source], policy: MediaPolicy) -> list[Medium]:
        # For the model a video is a row of images: they come in the prompt's order, in the same arrays.
        return [replace(medium, kind="image") for medium in super()._media(sources, policy)]

    def _for_template(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # The checkpoints' template knows images only; what it was trained on has the marker in a video's place.
        video = {"type": "text", "text": self.markers["video"]}

        def shown(content: Any) -> Any:
            return [video if p.get("type") == "video" else p for p in content] if isinstance(content, list) else content

        return super()._for_template([{**m, "content": shown(m.get("content"))} for m in messages])


ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(n: int) -> str:
    """A whole number below a million in English: 164 is "one hundred and sixty-four"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    rest = n % 1000
    return f"{in_words(n // 1000)} thousand" + (f"{', ' if rest >= 100 else ' and '}{in_words(rest)}" if rest else "")
