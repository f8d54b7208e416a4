"""Prompt caches in files that mlx-lm reads, and those that mlx-lm wrote: one safetensors with a class name a layer.

The layout is that of mlx-lm 0.32: the arrays are named by their place in the nested list of every cache's state
("3.0" are the keys of layer 3); numbers, text and None stand among them as arrays, and the metadata lists which
("2.i.0" is the place, "2.i.1" the kind). "1.i" are the class names, "0.*" what the user adds. Our own facts (the tokens
read, M-RoPE's shift, the model) are one user's entry more, which mlx-lm hands on and doesn't read.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..cache import State
from ..checkpoint.safetensors import read_header
from ..errors import GenerationError, MLXLMError, SourceError
from .cache_layers import filled, saved, slots
from .cache_older import is_older, todays
from .cache_older import parts as older

OWN = "mlxlm"
"""The metadata entry with our own facts."""


def save_prompt_cache(file_name: str | Path, cache: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a conversation's memory to a .safetensors file, which appears whole or not at all.

    cache: what ``model.make_cache`` made, of one row. metadata: text by name, for the reader. Raises GenerationError
    for what can't be saved, SourceError for a place that can't be written.
    """
    path = Path(file_name)
    if not isinstance(cache, State):
        raise GenerationError("not a cache that can be saved", where="cache", found=type(cache).__name__)
    if cache.left_padding is not None or cache.rows > 1:
        raise GenerationError("a batch can't be saved", where="cache", hint="Save each state of cache.split().")
    for name, text in (metadata or {}).items():
        if not isinstance(name, str) or not isinstance(text, str) or name == OWN:
            raise GenerationError("metadata is text by name", where="metadata", found=f"{name!r}: {text!r}")
    classes, states = zip(*map(saved, slots(cache)), strict=True) if slots(cache) else ((), ())
    arrays: dict[str, mx.array] = {}
    notes = {"2.0": ""}
    for place, leaf in _leaves(list(states)):
        arrays[place], kind = _as_array(leaf)
        if kind:
            number = len(notes) // 2 + 1
            notes |= {f"2.{number}.0": place, f"2.{number}.1": kind}
    shifts = [(at, shift if isinstance(shift, int) else shift.tolist()) for at, shift in cache.shifts]
    own = {OWN: json.dumps({"version": 1, "offset": cache.offset, "shifts": shifts})}
    notes |= {f"0.{name}": text for name, text in {**(metadata or {}), **own}.items()}
    notes |= {f"1.{i}": name for i, name in enumerate(classes)}
    write_safetensors(path, arrays, notes)


def load_prompt_cache(file_name: str | Path, model: Any, return_metadata: bool = False) -> Any:
    """The memory that a file holds, for ``model``: a State, or (State, metadata) with ``return_metadata``.

    The file may be mlx-lm's, an older one too. Raises MLXLMError for one that is damaged or another model's.
    """
    path = Path(file_name)
    arrays, notes = read_safetensors(path)
    try:
        metadata, classes, states = _unpacked(arrays, notes)
        own = json.loads(metadata.pop(OWN, "{}"))
        offset, shifts = int(own.get("offset", 0)), [(int(at), shift) for at, shift in own.get("shifts", [])]
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as e:
        raise SourceError("not a prompt cache, or a damaged one", where=path, found=f"{type(e).__name__}: {e}") from e
    state = filled(model.make_cache(), classes, states, model, path)
    state.offset = max(offset, state.offset)
    for at, shift in shifts:
        state.move(shift if isinstance(shift, int) else mx.array(shift), at)
    for layer in slots(state):
        settle(layer, state.offset)
    return (state, metadata) if return_metadata else state


def settle(layer: Any, offset: int) -> None:
    """Tells recurrent layers how many tokens they have read, which mlx-lm's files don't say."""
    for part in getattr(layer, "parts", [layer]):
        if part.kind == "recurrent":
            part.offset = offset


def write_safetensors(path: Path, arrays: dict[str, mx.array], notes: dict[str, str]) -> None:
    """Writes a file beside its place and renames it. Raises SourceError where that isn't possible."""
    try:
        handle, name = tempfile.mkstemp(".safetensors", f".{path.name}.", path.parent)
        os.close(handle)
        try:
            mx.save_safetensors(name, arrays, notes)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except (OSError, RuntimeError) as e:
        raise SourceError(f"the file can't be written ({e})", where=path) from e


def read_safetensors(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """A checked file's arrays and metadata. Raises SourceError."""
    try:
        header = read_header(path)
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        arrays, notes = loaded
        mx.eval(list(arrays.values()))
    except SourceError:
        raise
    except MLXLMError as e:
        raise SourceError(e.problem, where=e.where, found=e.found, hint="The file is damaged.") from e
    except (OSError, RuntimeError, ValueError) as e:
        raise SourceError(f"MLX can't read it ({e})", where=path, hint="The file is damaged.") from e
    own = header.get("__metadata__")
    return dict(arrays), dict(notes) if isinstance(own, dict) else {}


def _leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, (list, tuple)):
        for i, part in enumerate(tree):
            yield from _leaves(part, f"{place}.{i}" if place else str(i))
    else:
        yield place, tree


def _as_array(leaf: Any) -> tuple[mx.array, str]:
    if isinstance(leaf, mx.array):
        return leaf, ""
    if leaf is None:
        return mx.array([]), "none"
    if isinstance(leaf, str):
        return mx.array([ord(char) for char in leaf]), "string"
    return mx.array(leaf), "scalar"


def _unpacked(arrays: dict[str, Any], notes: dict[str, str]) -> tuple[dict[str, str], list[str], list[Any]]:
    """(the user's metadata, class names, states) from flat names."""
    if is_older(notes):
        metadata, classes, counts = older(notes)
        states = zip(classes, _tree(arrays), counts, strict=True)
        return metadata, classes, [todays(*layer) for layer in states]
    metadata = {name[2:]: text for name, text in notes.items() if name.startswith("0.")}
    classes = [notes[f"1.{i}"] for i in range(sum(name.startswith("1.") for name in notes))]
    if not classes or "2.0" not in notes:
        raise ValueError("its metadata names no caches")
    values: dict[str, Any] = dict(arrays)
    number = 1
    while f"2.{number}.0" in notes:
        place, kind = notes[f"2.{number}.0"], notes[f"2.{number}.1"]
        values[place] = _from_array(values[place], kind)
        number += 1
    states = _tree(values)
    if len(states) != len(classes):
        raise ValueError(f"{len(states)} states of {len(classes)} caches")
    return metadata, classes, states


def _from_array(array: mx.array, kind: str) -> Any:
    if kind == "scalar":
        return array.item()
    if kind == "string":
        return "".join(map(chr, array.tolist()))  # type: ignore[arg-type]
    if kind == "none":
        return None
    raise ValueError(f"a value of an unknown kind, {kind!r}")


def _tree(values: dict[str, Any]) -> list[Any]:
    """Nested lists from names such as "3.0.1"."""
    root: dict[str, Any] = {}
    for place, value in values.items():
        node = root
        *way, last = place.split(".")
        for key in way:
            node = node.setdefault(key, {})
        node[last] = value
    return _listed(root)


def _listed(node: Any) -> Any:
    return [_listed(node[str(i)]) for i in range(len(node))] if isinstance(node, dict) else node
