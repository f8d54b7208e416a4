"""Prompt caches as older versions of mlx-lm wrote them, and mlx-swift-lm does: counts are text among the metadata.

"0.i.*" are a layer's counts, "1.*" the user's metadata, "2.i" the class names; the arrays are named as they are today.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def is_older(notes: Mapping[str, str]) -> bool:
    """Whether a file's metadata are in the older order: today's have no text at "2.0"."""
    return bool(notes.get("2.0"))


def parts(notes: Mapping[str, str]) -> tuple[dict[str, str], list[str], list[Any]]:
    """(the user's metadata, class names, counts by layer)."""
    metadata = {name[2:]: text for name, text in notes.items() if name.startswith("1.")}
    classes = [notes[f"2.{i}"] for i in range(sum(name.startswith("2.") for name in notes))]
    counts: dict[str, Any] = {name[2:]: text for name, text in notes.items() if name.startswith("0.")}
    return metadata, classes, [_below(counts, str(i)) for i in range(len(classes))]


def _below(flat: Mapping[str, str], place: str) -> Any:
    """What stands at a place of a flattened list of lists."""
    if place in flat:
        return flat[place]
    nested, i = [], 0
    while any(name == f"{place}.{i}" or name.startswith(f"{place}.{i}.") for name in flat):
        nested.append(_below(flat, f"{place}.{i}"))
        i += 1
    return nested


def todays(name: str, state: Any, counts: Any) -> Any:
    """A layer's state as today's mlx-lm has it. Raises ValueError for a class that didn't say enough."""
    if name in ("KVCache", "ConcatenateKVCache"):
        return [*state, state[0].shape[2]]
    if name == "QuantizedKVCache":
        return [*state, *_numbers(counts)[-3:]]  # the first of four was the step
    if name == "RotatingKVCache":
        keep, size, *rest = _numbers(counts)
        offset, at = rest if len(rest) == 2 else rest[1:3]  # a step may stand before them, and more behind
        return [*state, offset, keep, size, at]
    if name in ("ArraysCache", "MambaCache"):
        return state
    if name == "CacheList":
        return [[todays(n, s, c), n] for s, n, c in zip(state, *counts, strict=True)]
    raise ValueError(f"{name} of an older mlx-lm, which didn't write where it stood")


def _numbers(counts: Sequence[str]) -> list[int]:
    return [int(count) for count in counts if count.lstrip("-").isdigit()]
