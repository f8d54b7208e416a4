"""What image processors share: conversions, resizing, rescaling, normalizing and padding, with Pillow and numpy alone.

The numbers are those of transformers' Pillow-backed processors: resampling on 8-bit values, the rest in float32.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)  # Pillow's numbers, as preprocessor_config.json has them
MOST_PIXELS = 1 << 27  # that an image is brought to
MOST_TILES = 1024  # that an image is cut into


class ImageProcessor:
    """Base of image processors: class attributes are the defaults of the settings that preprocessor_config.json sets.

    Called with images (RGB) it gives their arrays by Hugging Face's names. Settings without an attribute are ignored.
    """

    do_resize: bool = True
    size: Any = None
    resample: int = BICUBIC
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Sequence[float] = CLIP_MEAN
    image_std: Sequence[float] = CLIP_STD

    def __init__(self, **settings: Any):
        for name, value in settings.items():
            known = not name.startswith("_") and hasattr(type(self), name)
            if value is not None and known and not callable(getattr(type(self), name)):
                setattr(self, name, value)
        if isinstance(self.size, Mapping):
            self.size = dict(self.size)

    def __call__(self, images: "list[Image]") -> dict[str, np.ndarray]:
        raise NotImplementedError

    def resized(self, image: "Image", height: int, width: int) -> "Image":
        """The image in another size, by the processor's filter."""
        return resize(image, height, width, self.resample) if self.do_resize else image

    def values(self, image: "Image | np.ndarray") -> np.ndarray:
        """float32 (channels, height, width), rescaled and normalized as the settings say."""
        x = channels_first(image)
        if self.do_rescale:
            x = rescale(x, self.rescale_factor)
        return normalize(x, self.image_mean, self.image_std) if self.do_normalize else x.astype(np.float32)


def check_tiles(count: int, setting: str) -> None:
    """Raises ConfigError for more tiles of an image than any model is shown."""
    if not 0 <= count <= MOST_TILES:
        raise ConfigError("no number of tiles that an image can have", where=f"preprocessor_config.json, {setting}",
                          found=count, expected=f"at most {MOST_TILES}")


def resize(image: "Image", height: int, width: int, resample: int = BICUBIC) -> "Image":
    """The image in another size. Raises ConfigError for one that only damaged settings can ask for."""
    if not 0 < height * width <= MOST_PIXELS or min(height, width) < 1:
        raise ConfigError("no size that an image can have", where="preprocessor_config.json",
                          found=f"{width} by {height} pixels", expected=f"at most {MOST_PIXELS} pixels")
    return image if image.size == (width, height) else image.resize((width, height), resample=resample)  # type: ignore


def channels_first(image: "Image | np.ndarray") -> np.ndarray:
    """uint8 (channels, height, width) of an image; arrays stay as they are."""
    return image if isinstance(image, np.ndarray) else np.moveaxis(np.asarray(image), -1, 0)


def rescale(x: np.ndarray, factor: float = 1 / 255) -> np.ndarray:
    """x times ``factor``, float32."""
    return (x.astype(np.float64) * factor).astype(np.float32)


def normalize(x: np.ndarray, mean: float | Sequence[float], std: float | Sequence[float]) -> np.ndarray:
    """(x - mean) / std for each channel of (…, channels, height, width), float32."""
    m, s = (np.broadcast_to(np.asarray(v, np.float32), (x.shape[-3],))[:, None, None] for v in (mean, std))
    if not s.all():
        raise ConfigError("it can't be zero", where="preprocessor_config.json, image_std", found=std)
    return ((x.astype(np.float32) - m) / s).astype(np.float32)


def pad(x: np.ndarray, height: int, width: int, value: float = 0) -> np.ndarray:
    """(…, height, width) filled up to a size at the bottom and on the right."""
    more = [(0, 0)] * (x.ndim - 2) + [(0, height - x.shape[-2]), (0, width - x.shape[-1])]
    return np.pad(x, more, constant_values=value)


def pad_square(image: "Image", color: Sequence[int]) -> "Image":
    """The image in the middle of a square of ``color``."""
    from PIL import Image

    side = max(image.size)
    square = Image.new(image.mode, (side, side), tuple(color))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def smart_resize(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The size nearest to (height, width) whose sides are multiples of ``factor``, with ``least`` to ``most`` pixels.

    As Qwen's processors: raises MediaError for images 200 times as long as wide.
    """
    check_shape(height, width)
    h, w = (round(n / factor) * factor for n in (height, width))
    if h * w > most:
        shrink = math.sqrt(height * width / most)
        h, w = (max(factor, math.floor(n / shrink / factor) * factor) for n in (height, width))
    elif h * w < least:
        grow = math.sqrt(least / (height * width))
        h, w = (math.ceil(n * grow / factor) * factor for n in (height, width))
    return h, w


def check_shape(height: int, width: int) -> None:
    """Raise MediaError for an image 200 times as long as wide."""
    if max(height, width) > 200 * min(height, width):
        raise MediaError("the image is too long for its width", found=f"{width} by {height} pixels",
                         expected="sides of at most 200 to 1")


def size_pair(size: Any, where: str = "size") -> tuple[int, int]:
    """(height, width) of a ``size`` setting: a number, a pair, or an object with height and width."""
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    if isinstance(size, int):
        return size, size
    if isinstance(size, Sequence) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ConfigError("not a size", where=f"preprocessor_config.json, {where}", found=repr(size)[:60],
                      expected="height and width")
