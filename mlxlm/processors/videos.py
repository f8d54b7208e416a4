"""Videos from wherever they come: which frames a family takes, decoded by PyAV, or from frames that the caller has."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .transforms import ImageProcessor

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Clip:
    """The frames that were taken (RGB, all of one size), and when each stands: ``indices`` of ``fps`` a second.

    ``duration`` is the whole video's, in seconds, where that is known.
    """

    frames: "list[Image]"
    indices: list[int]
    fps: float
    duration: float | None = None

    @property
    def height(self) -> int:
        return self.frames[0].height

    @property
    def width(self) -> int:
        return self.frames[0].width

    @property
    def seconds(self) -> list[float]:
        """When each frame stands, in seconds from the start."""
        return [i / self.fps for i in self.indices]


class VideoProcessor(ImageProcessor):
    """Base of video processors; `sample` says which frames to take."""

    fps: float | None = None
    num_frames: int | None = None

    def sample(self, total: int, fps: float) -> list[int]:
        """The frames to take of ``total`` at ``fps`` a second."""
        return list(range(total))

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:  # type: ignore[override]
        raise NotImplementedError
