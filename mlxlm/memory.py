"""What memory a model, a cache and a prompt take, and what there is: refused with figures before it runs out."""

import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .cache import State
from .cache.kv import STEP, TokenBuffer, stepped
from .errors import MemoryLimitError, UsageError
from .files import size

VARIABLE = "MLXLM_MEMORY_LIMIT"
SPARE = 0.03
"""The part of all memory that is left to the rest of the machine."""
CACHE_SHARE = 0.1
"""The part of a device's memory that freed buffers may go on to hold, for those that come."""
LEAST_ANSWER = 256
"""How much of an answer's room must be free before it is begun; most end long before they may."""
LEAST_TOKENS = 1024
"""Generations of fewer tokens than these aren't worth an estimate."""


@dataclass(frozen=True)
class Room:
    """Bytes that are free for MLX, and of which memory."""

    free: int
    what: str


def room(limit: Any = None) -> Room | None:
    """What is free: up to a limit in bytes, else of the device's memory; None where nothing is to be checked.

    ``limit`` is a number of bytes that MLX may hold in all, or "off"; None reads the variable MLXLM_MEMORY_LIMIT, in
    which K, M, G and T are understood. Raises UsageError for another value.
    """
    where = "memory_limit"
    if limit is None:
        limit, where = os.environ.get(VARIABLE), VARIABLE
    if limit is None or limit == "":
        return device_room()
    if isinstance(limit, str) and limit.lower() == "off":
        return None
    return Room(_bytes(limit, where) - mx.get_active_memory(), f"the limit set by {where}")


def budget(value: Any) -> int | None:
    """A budget in bytes: a number or text, None for what is free now, "off" for None."""
    if isinstance(value, str) and value.lower() == "off":
        return None
    if value is not None:
        return _bytes(value, "memory_budget")
    found = room()
    return None if found is None else max(found.free, 0)


def _bytes(value: Any, where: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", str(value).strip().lower())
    if found is None or isinstance(value, bool):
        raise UsageError("not an amount of memory", where=where, found=repr(value), expected='bytes, "12G", or "off"')
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def device_room() -> Room:
    """What is free for MLX on its device, whatever limits the user has set."""
    info = mx.device_info()
    working_set = info.get("max_recommended_working_set_size")
    if isinstance(working_set, int):
        return Room(working_set - mx.get_active_memory(), "what Metal recommends to use")
    if not mx.metal.is_available() and mx.cuda.is_available():
        free, total = info.get("free_memory"), info.get("total_memory") or info.get("memory_size")
        if isinstance(free, int):
            return Room(free + mx.get_cache_memory(), "the GPU's memory")
        if isinstance(total, int):
            return Room(total - mx.get_active_memory(), "the GPU's memory")
    return host_room()


def host_room(root: Path = Path("/")) -> Room:
    """What this process may still take of the machine's memory, its control groups' limits counted."""
    rooms = [*_machine(root), *_groups(root)]
    if not rooms:
        return Room(mx.get_memory_limit() - mx.get_active_memory(), "MLX's memory limit")
    return min(rooms, key=lambda one: one.free)


def _machine(root: Path) -> Iterator[Room]:
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE))
    if "MemAvailable" in fields:
        spare = int(int(fields.get("MemTotal", 0)) * SPARE)
        yield Room((int(fields["MemAvailable"]) - spare) * 1024, "the machine's memory")


def _groups(root: Path) -> Iterator[Room]:
    """The limits of the control groups that this process is in, and of those around them (versions 1 and 2)."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = Path(path.lstrip("/"))
        for folder in {base / part for part in (inner, *inner.parents)}:
            limit, used = (_read(folder / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal() and int(limit) < 1 << 60:
                # Pages of files can be dropped, and count as used all the same.
                files = re.search(r"^(?:total_)?inactive_file (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
                free = int(limit) - int(used) + (int(files[1]) if files else 0)
                yield Room(free, "the memory that this control group may use")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def check(needed: int, problem: str, *, where: object, limit: Any = None, parts: str = "", hint: str = "") -> None:
    """Raises MemoryLimitError where ``needed`` bytes aren't free."""
    found = room(limit)
    if found is None or needed <= found.free:
        return
    raise MemoryLimitError(
        problem, where=where, found=f"{size(needed)} needed{f' ({parts})' if parts else ''}",
        expected=f"at most {size(max(found.free, 0))}, {found.what}",
        hint=f"{hint} To try all the same, set memory_limit=\"off\" or {VARIABLE}=off.".strip())


def parameters_size(model: Any) -> int:
    """Bytes of a model's weights, read or not."""
    return sum(weight.nbytes for _, weight in tree_flatten(model.parameters()))  # type: ignore[union-attr]


def check_weights(needed: int, where: object, limit: Any = None) -> None:
    """Raises MemoryLimitError where weights of so many bytes have no room."""
    check(needed, "the model doesn't fit into memory", where=where, limit=limit, parts="weights",
          hint="Take a smaller model, or one quantized to fewer bits.")


def tidy() -> None:
    """Gives the system back what dropped models left behind, and bounds what freed buffers may hold from now on.

    Every load begins with it. A smaller bound that the program has set stays.
    """
    mx.clear_cache()
    if trim := _trim():
        trim(0)
    if mx.metal.is_available() or mx.cuda.is_available():
        info = mx.device_info()
        total = info.get("max_recommended_working_set_size") or info.get("total_memory") or info.get("memory_size")
        if isinstance(total, int):
            wanted = int(total * CACHE_SHARE)
            before = mx.set_cache_limit(wanted)
            if before < wanted:
                mx.set_cache_limit(before)


@cache
def _trim() -> Any:
    """The C library's way to give freed memory back, which it keeps where it was in pieces; None where it has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


class CacheCost:
    """What caches of a model take, learnt from one token whose pass is laid out and never computed."""

    def __init__(self, model: Any):
        cache = model.make_cache()
        self.layers: list[tuple[int, int, int | None]] = []  # (fixed bytes, bytes a token, window)
        if isinstance(cache, State):
            model(mx.zeros((1, 1), mx.int32), cache=cache)
            self.layers = [_cost(layer) for whole in cache for layer in getattr(whole, "parts", [whole])]

    def bytes(self, tokens: int, chunk: int = 1, window: int | None = None) -> int:
        """Bytes of a cache that holds ``tokens``, of which ``chunk`` come at once; ``window`` bounds full layers."""
        total = 0
        for fixed, each, own in self.layers:
            most = own or window
            held = tokens if most is None else min(tokens, most + chunk + STEP)
            total += fixed + each * stepped(held)
        return total


def _cost(layer: Any) -> tuple[int, int, int | None]:
    if isinstance(layer, TokenBuffer) and layer.capacity:
        return 0, layer.nbytes // layer.capacity, layer.window
    return layer.nbytes, 0, None


def check_prompt(model: Any, tokens: int, *, cached: int = 0, chunk: int = 512, more: float = 0,
                 window: int | None = None, ratio: float = 1.0, limit: Any = None) -> None:
    """Raises MemoryLimitError where a prompt of so many tokens has no room, and ``more`` of an answer behind it.

    cached: tokens that the cache holds already. chunk: tokens that are read at once. ratio: bytes of the cache as it is
    kept to those of a plain one.
    """
    total = cached + tokens + int(min(more, LEAST_ANSWER))
    if limit is not None:
        room(limit)  # a wrong one is told however short the prompt is
    if total - cached <= LEAST_TOKENS or room(limit) is None:
        return
    cost, chunk = CacheCost(model), min(chunk, tokens)
    cache = int((cost.bytes(total, chunk, window) - (cost.bytes(cached, 1, window) if cached else 0)) * ratio)
    working = working_size(getattr(model, "config", None), chunk, total)
    check(cache + working, "the prompt doesn't fit into memory", where="prompt", limit=limit,
          parts=f"{size(cache)} of cache for {total - cached} tokens, {size(working)} to read them",
          hint="Shorten it, or bound or pack the cache: max_kv_size, kv_bits.")


def working_size(config: Any, chunk: int, tokens: int) -> int:
    """Bytes that reading ``chunk`` tokens takes beside weights and cache, roughly: rows of each layer, and a mask."""
    parts = [part for part in (getattr(config, "text_config", None), config) if part is not None]

    def field(*names: str) -> int:
        values = (getattr(part, name, None) for part in parts for name in names)
        return next((value for value in values if isinstance(value, int)), 0)

    hidden, inner, heads = field("hidden_size"), field("intermediate_size"), field("num_attention_heads")
    rows = 8 * hidden + 3 * inner + 4 * heads * field("head_dim")
    return 4 * chunk * rows + chunk * tokens
