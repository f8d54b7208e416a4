"""Media made ready lately: a conversation's next turn neither fetches, decodes nor resizes its images again.

Kept by where they come from (a file as long as it doesn't change, an address for some minutes) or by content.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..errors import MediaError
from .images import local_path
from .messages import MediaPolicy, Source

MINUTES = 5 * 60  # how long what an address gave is taken for what it would give


class Recent:
    """The latest media of up to ``max_bytes`` in all. Threads may share it."""

    def __init__(self, max_bytes: int = 256 << 20):
        self.max_bytes, self.nbytes = max_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[float, int, Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, source: Source, policy: MediaPolicy, settings: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` made of the source by these settings lately, or makes now.

        Raises MediaError for a source that may not be read.
        """
        try:
            found = _key(source, policy)
        except MediaError:
            found = None  # making it will say so, and where it stands
        if found is None:
            return make()
        key = (*found, settings)
        with self._lock:
            if (known := self._kept.get(key)) is not None and known[0] > time.monotonic():
                self._kept.move_to_end(key)
                return known[2]
        made = make()
        self._keep(key, made, sum(x.nbytes for x in made.arrays.values()))
        return made

    def _keep(self, key: tuple[Hashable, ...], made: Any, nbytes: int) -> None:
        until = time.monotonic() + MINUTES if key[0] == "address" else float("inf")
        with self._lock:
            if (old := self._kept.pop(key, None)) is not None:
                self.nbytes -= old[1]
            if nbytes > self.max_bytes:
                return
            self._kept[key] = until, nbytes, made
            self.nbytes += nbytes
            while self.nbytes > self.max_bytes:
                self.nbytes -= self._kept.popitem(last=False)[1][1]


def _key(source: Source, policy: MediaPolicy) -> tuple[Hashable, ...] | None:
    """What tells a source from others; None where that would cost too much to say."""
    value: Any = source.value
    if isinstance(value, str) and value[:5].lower() == "data:":
        value = value.encode("utf-8", "replace")
    if isinstance(value, str) and value.lower().startswith(("http://", "https://")):
        return ("address", source.kind, value, policy)
    if isinstance(value, (str, Path)) and value:
        path = local_path(source, policy) if isinstance(value, str) else value
        try:
            stat = path.stat()
        except (OSError, ValueError):
            return None  # reading it will say what is wrong
        return ("file", source.kind, str(path.absolute()), stat.st_mtime_ns, stat.st_size, policy)
    if isinstance(value, (bytes, bytearray)):
        return ("bytes", source.kind, len(value), _digest(value), policy)
    if isinstance(value, np.ndarray) and value.dtype.kind in "uif":
        return ("array", source.kind, value.shape, value.dtype.str, _digest(np.ascontiguousarray(value).data), policy)
    return _image_key(value, source, policy) if hasattr(value, "getexif") else None


def _image_key(image: Any, source: Source, policy: MediaPolicy) -> tuple[Hashable, ...] | None:
    """Of a PIL image; None for one with more to it than its pixels."""
    if image.info or image.getexif():
        return None
    return ("image", source.kind, image.mode, image.size, _digest(image.tobytes()), policy)


def _digest(data: Any) -> bytes:
    return blake2b(data, digest_size=16).digest()
