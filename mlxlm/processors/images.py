"""Images from wherever they come, as RGB: bounded before they are decoded, turned upright, flattened to one frame."""

import base64
import binascii
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import numpy as np

from ..errors import MediaError
from .messages import MediaPolicy, Source

if TYPE_CHECKING:
    from PIL.Image import Image

EXPECTED = "a path, a URL, a data URI, bytes, a PIL image or an array (height, width, channels)"


def open_image(source: Any, policy: MediaPolicy | None = None) -> "Image":
    """The image as RGB, upright; the first frame of an animated one, on white where it is see-through.

    source: a `Source`, or what the caller has: path, URL, data URI, bytes, file object, PIL image or array of uint8
    (0 to 255) or float (0 to 1), (height, width), (height, width, channels) or (channels, height, width).
    Raises MediaError.
    """
    policy = policy or MediaPolicy()
    source = source if isinstance(source, Source) else Source("image", source, True)
    try:
        return _as_rgb(_opened(source, policy), source.where)
    except MediaError as error:
        if error.where is None:
            raise MediaError(error.problem, where=source.where, found=error.found, expected=error.expected,
                             hint=error.hint) from error
        raise


def _opened(source: Source, policy: MediaPolicy) -> "Image":
    from PIL import Image

    value = source.value
    if isinstance(value, Image.Image):
        _check_pixels(value.size, policy)
        return value
    if isinstance(value, np.ndarray) or (hasattr(value, "shape") and hasattr(value, "dtype")):
        return _from_array(value, policy)
    return _decoded(read_source(source, policy, policy.max_bytes), policy, source.where)


def read_source(source: Source, policy: MediaPolicy, limit: int) -> bytes:
    """The bytes of a source that isn't an object in memory. Raises MediaError."""
    value = source.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bounded(bytes(value), limit)
    if callable(getattr(value, "read", None)):
        return _bounded(value.read(limit + 1), limit)
    if isinstance(value, Path):
        return read_file(value, limit)
    if not isinstance(value, str) or not value:
        raise MediaError("not an image" if source.kind == "image" else "not a video", found=type(value).__name__,
                         expected=EXPECTED)
    if value[:5].lower() == "data:":
        return _from_data_uri(value, limit)
    if value.lower().startswith(("http://", "https://")):
        from .fetch import fetch

        return fetch(value, policy, limit)
    return read_file(local_path(source, policy), limit)


def local_path(source: Source, policy: MediaPolicy) -> Path:
    """The path that a text names, if it may. Raises MediaError."""
    value = str(source.value)
    if "://" in value[:16] and not value.lower().startswith("file://"):
        raise MediaError("only http and https URLs are fetched", found=value[:60])
    if not source.trusted and not policy.local_paths:
        raise MediaError("a message may not name files of this machine", found=repr(value[:60]),
                         expected="a URL or a data URI",
                         hint="Pass the path as images=, or allow it: MediaPolicy(local_paths=True).")
    return Path(value[7:] if value.lower().startswith("file://") else value).expanduser()


def read_file(path: Path, limit: int) -> bytes:
    """A file's content, if it is a regular one of at most ``limit`` bytes. Raises MediaError."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            problem = "the file is not there" if not path.exists() else "it is not a regular file"
            raise MediaError(problem, where=path)
        with path.open("rb") as file:
            return _bounded(file.read(limit + 1), limit, path)
    except (OSError, ValueError) as error:
        raise MediaError(f"the file can't be read ({error})", where=str(path)[:200]) from error


def _bounded(data: Any, limit: int, where: object = None) -> bytes:
    if not isinstance(data, bytes):
        raise MediaError("not bytes", where=where, found=type(data).__name__)
    if len(data) > limit:
        raise MediaError("too large", where=where, found=f"more than {limit:,} bytes",
                         hint="MediaPolicy(max_bytes=…) sets the limit.")
    return data


def _from_data_uri(uri: str, limit: int) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or len(body) > limit * 3:
        raise MediaError("not a data URI that can be taken", found=f"{uri[:40]}… ({len(uri):,} characters)")
    try:
        raw = unquote_to_bytes(body)
        data = base64.b64decode(b"".join(raw.split()), validate=True) if head.lower().endswith(";base64") else raw
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"the data URI isn't base64 ({error})", found=f"{uri[:40]}…") from error
    return _bounded(data, limit)


def _decoded(data: bytes, policy: MediaPolicy, where: str) -> "Image":
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise MediaError("the image is empty", where=where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit on pixels holds, and odd metadata doesn't matter
            image = Image.open(io.BytesIO(data))
            _check_pixels(image.size, policy)
            image.load()
            return image
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"the image has too many pixels ({error})", where=where) from error
    except UnidentifiedImageError as error:
        raise MediaError("no image that can be read", where=where, found=f"{len(data):,} bytes beginning {data[:8]!r}",
                         expected="PNG, JPEG, WebP, GIF, TIFF, BMP or another format of Pillow's") from error
    except Exception as error:  # broad: Pillow's decoders raise whatever a damaged file leads them to
        raise MediaError(f"the image is damaged ({type(error).__name__}: {str(error)[:100]})", where=where) from error


def _check_pixels(size: tuple[int, int], policy: MediaPolicy) -> None:
    width, height = size
    if width < 1 or height < 1 or width * height > policy.max_pixels:
        raise MediaError("the image has too many pixels" if width and height else "the image has no pixels",
                         found=f"{width} by {height}", expected=f"at most {policy.max_pixels:,}")


def _as_rgb(image: "Image", where: str) -> "Image":
    """The first frame, upright, as RGB."""
    from PIL import Image, ImageOps

    try:
        if getattr(image, "is_animated", False):
            image.seek(0)
        image = ImageOps.exif_transpose(image) or image
        if image.mode == "RGB":
            return image
        if image.mode.startswith(("I", "F")):
            return _deep_grey(image).convert("RGB")
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            clear = image.convert("RGBA")
            white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, clear).convert("RGB")
        return image.convert("RGB")
    except Exception as error:  # broad: Pillow raises whatever a damaged file's metadata lead it to
        raise MediaError(f"the image can't be converted ({type(error).__name__}: {str(error)[:100]})",
                         where=where) from error


def _deep_grey(image: "Image") -> "Image":
    """Grey of 16 or 32 bits a pixel, or floats, to 8 bits; Pillow alone would cut the values off at 255."""
    from PIL import Image

    x = np.nan_to_num(np.asarray(image).astype(np.float64))
    top = x.max() if image.mode == "F" else 65_535.0 if x.max() > 255 else 255.0
    low = min(x.min(), 0.0)
    scaled = (x - low) / max(max(top, x.max()) - low, 1e-12) * 255
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def _from_array(value: Any, policy: MediaPolicy) -> "Image":
    from PIL import Image

    x = np.asarray(value)
    if x.ndim == 3 and x.shape[0] in (1, 3, 4) and x.shape[2] not in (1, 3, 4):
        x = np.moveaxis(x, 0, -1)
    if x.ndim == 3 and x.shape[2] == 1:
        x = x[..., 0]
    if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in (3, 4)) or x.dtype.kind not in "uifb":
        raise MediaError("not an image", found=f"an array of shape {x.shape} and dtype {x.dtype}", expected=EXPECTED)
    _check_pixels((x.shape[1], x.shape[0]), policy)
    if x.dtype.kind == "f":
        if not np.isfinite(x).all() or x.min(initial=0.0) < 0 or x.max(initial=0.0) > 1:
            raise MediaError("floats of an image go from 0 to 1", found=f"{x.min()} to {x.max()}")
        x = np.round(x * 255)
    elif x.dtype == np.uint16:
        x = np.round(x / 257)
    elif x.dtype.kind == "b":
        x = x * 255
    elif x.size and (x.min() < 0 or x.max() > 255):
        raise MediaError("integers of an image go from 0 to 255", found=f"{x.min()} to {x.max()}")
    return Image.fromarray(x.astype(np.uint8))
