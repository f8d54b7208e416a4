"""Videos from wherever they come: which frames a family takes, decoded by PyAV, or from frames that the caller has."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MediaError
from .images import local_path, open_image, read_source
from .messages import MediaPolicy, Source
from .transforms import ImageProcessor, normalize, rescale

if TYPE_CHECKING:
    from PIL.Image import Image

# Containers that hold one film: none that is a list of further files or addresses, which FFmpeg would open.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,gif,h264,hevc,ivf"
MOST_FRAMES = 1_000_000  # of a film: about nine hours at 30 a second


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

    @property
    def taken_fps(self) -> float:
        """How many frames were taken of a second."""
        return self.fps if self.duration is None else len(self.frames) / self.duration


class VideoProcessor(ImageProcessor):
    """Base of video processors. `sample` says which frames to take; a call makes arrays of a `Clip`."""

    fps: float | None = None
    num_frames: int | None = None

    def sample(self, total: int, fps: float) -> list[int]:
        """The frames to take of ``total`` at ``fps`` a second."""
        count = self.num_frames
        if count is None and self.fps is not None:
            count = max(1, int(total / fps * self.fps))
        return [i * total // min(count, total) for i in range(min(count, total))] if count else list(range(total))

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:  # type: ignore[override]
        raise NotImplementedError

    def frame_values(self, frames: "Sequence[Image]") -> np.ndarray:
        """float32 (frames, channels, height, width), rescaled and normalized as the settings say."""
        x = np.moveaxis(np.stack([np.asarray(frame) for frame in frames]), -1, 1)
        x = rescale(x, self.rescale_factor) if self.do_rescale else x
        return normalize(x, self.image_mean, self.image_std) if self.do_normalize else x.astype(np.float32)


def open_video(source: Any, policy: MediaPolicy, processor: VideoProcessor) -> Clip:
    """The frames of a video that the processor takes.

    source: a `Source`, or a path, URL, data URI, bytes or file object of a film (by PyAV); or frames: a list of images
    or an array (frames, height, width, 3), also as {"frames": …, "fps": …}. Frames are taken as they are, and stand as
    far apart as the family takes them from a film unless ``fps`` says otherwise. Raises MediaError.
    """
    source = source if isinstance(source, Source) else Source("video", source, True, "videos")
    value, fps = source.value, None
    if isinstance(value, Mapping):
        value, fps = value.get("frames"), value.get("fps")
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", None) == 4:
        return _from_frames(value, fps, source, policy, processor)
    try:
        return _from_film(source, policy, processor)
    except MediaError as error:
        if error.where is None:
            raise MediaError(error.problem, where=source.where, found=error.found, expected=error.expected,
                             hint=error.hint) from error
        raise


def _from_frames(value: Any, fps: Any, source: Source, policy: MediaPolicy, processor: VideoProcessor) -> Clip:
    if not len(value) or len(value) > policy.max_frames:
        raise MediaError("not a number of frames that can be taken", where=source.where, found=len(value),
                         expected=f"1 to {policy.max_frames}")
    frames = [open_image(Source("image", frame, source.trusted, f"{source.where}, frame {i}"), policy)
              for i, frame in enumerate(value)]
    if len({frame.size for frame in frames}) > 1:
        raise MediaError("the frames differ in size", where=source.where, found=sorted({f.size for f in frames})[:4])
    rate = fps if fps is not None else processor.fps or 2.0
    if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 < rate < 1e4:
        raise MediaError("not a number of frames a second", where=f"{source.where}, fps", found=repr(rate)[:40])
    return Clip(frames, list(range(len(frames))), float(rate))


def _from_film(source: Source, policy: MediaPolicy, processor: VideoProcessor) -> Clip:
    with _container(source, policy) as container:
        stream = container.streams.video[0]
        _check_size(stream, policy)
        fps = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
        total = stream.frames or _counted(container)
        if not 0 < total <= MOST_FRAMES or not 0 < fps < 1e4:
            raise MediaError("not a length that can be taken", where=source.where,
                             found=f"{total} frames, {fps} a second")
        indices = processor.sample(total, fps)
        if not 0 < len(indices) <= policy.max_frames:
            raise MediaError("too many frames would be taken", where=source.where, found=len(indices),
                             expected=f"at most {policy.max_frames}")
        frames = _decoded(container, indices, policy)
        if not frames:
            raise MediaError("no frame can be decoded", where=source.where)
        # A damaged end, or a count that promised too much: the last frame stands for those that are missing.
        frames += [frames[-1]] * (len(indices) - len(frames))
        return Clip(frames, list(indices), fps, total / fps)


@contextmanager
def _container(source: Source, policy: MediaPolicy) -> Iterator[Any]:
    """An open container with a film in it; whatever FFmpeg raises becomes a MediaError."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise MediaError("videos need the package av", where=source.where, hint="pip install 'mlxlm[video]'") from error
    opened, closed = _file(source, policy), {"format_whitelist": CONTAINERS, "protocol_whitelist": "-"}
    try:
        with opened as file, av.open(file, options=closed) as found:
            if not found.streams.video:
                raise MediaError("it has no pictures", where=source.where)
            yield found
    # PyAV's streams lack attributes where FFmpeg knows no decoder for them.
    except (FFmpegError, ValueError, OSError, RuntimeError, EOFError, AttributeError) as error:
        raise MediaError(f"no video that can be read ({str(error)[:120]})", where=source.where) from error


def _file(source: Source, policy: MediaPolicy) -> Any:
    """The film as an open file: FFmpeg is never given a name, which it might take for an address."""
    value = source.value
    if isinstance(value, str) and not value.lower().startswith(("data:", "http://", "https://")):
        value = local_path(source, policy)
    if isinstance(value, Path):
        if not value.is_file():
            raise MediaError("the file is not there", where=value)
        return value.open("rb")
    return io.BytesIO(read_source(Source("video", value, source.trusted, source.where), policy, policy.max_video_bytes))


def _check_size(stream: Any, policy: MediaPolicy) -> None:
    if stream.width * stream.height > policy.max_pixels or not stream.width * stream.height:
        raise MediaError("not a size of frames that can be taken", found=f"{stream.width} by {stream.height}",
                         expected=f"at most {policy.max_pixels:,} pixels")


def _counted(container: Any) -> int:
    """The frames of a film that doesn't tell, counted without decoding them."""
    count = 0
    for packet in container.demux(video=0):
        count += bool(packet.size)
        if count > MOST_FRAMES:
            break
    container.seek(0)
    return count


def _decoded(container: Any, indices: Sequence[int], policy: MediaPolicy) -> "list[Image]":
    wanted, last, found = set(indices), max(indices), {}
    for i, frame in enumerate(container.decode(video=0)):
        if i in wanted:
            if frame.width * frame.height > policy.max_pixels:
                raise MediaError("a frame has too many pixels", found=f"{frame.width} by {frame.height}")
            found[i] = _upright(frame)
        if i >= last:
            break
    return [found[i] for i in indices if i in found]


def _upright(frame: Any) -> "Image":
    image = frame.to_image()
    turned = round(getattr(frame, "rotation", 0) or 0) % 360
    return image.rotate(turned, expand=True) if turned % 90 == 0 and turned else image


def even(total: int, count: int) -> list[int]:
    """``count`` frames at even distances, the first and the last among them."""
    return [math.floor(x) for x in np.linspace(0, total - 1, count).round()]
