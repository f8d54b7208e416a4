"""Wired memory on Macs: while anything generates, the system may not page out what the GPU works with."""
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_lock = threading.Lock()
_users, _limit_before = 0, 0


@contextmanager
def wired_memory() -> Iterator[None]:
    """Raises Metal's wired limit to what the device recommends; the last generation to end puts it back.

    Without Metal it does nothing.
    """
    if not mx.metal.is_available():
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users, _limit_before
    with _lock:
        if _users == 0:
            _limit_before = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
        _users += 1


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            mx.synchronize()  # the limit may not change under a computation
            mx.set_wired_limit(_limit_before)
