"""A prefix store on disk: an index, and for each entry a prompt cache that mlx-lm could read, and its checkpoints."""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import Checkpoint, CompositeCache, KVCache, NoCache, State
from ..errors import SourceError
from .prefix_store import Entry, PrefixStore
from .prompt_cache import load_prompt_cache, save_prompt_cache

INDEX, VERSION = "prefixes.json", 1


def save_entries(store: PrefixStore, folder: Any, key: str) -> int:
    """See `PrefixStore.save`. The index comes last, by rename: before it, the folder says what it said."""
    at, rows = Path(folder), []
    try:
        at.mkdir(parents=True, exist_ok=True)
        before = list(at.glob("*.safetensors"))
        for entry in store.entries(key):
            name = uuid.uuid4().hex
            save_prompt_cache(at / f"{name}.safetensors", entry.state)
            for place, checkpoint in entry.checkpoints.items():
                save_prompt_cache(at / f"{name}.{place}.safetensors", _as_state(checkpoint, entry.state))
            rows.append({"name": name, "tokens": entry.tokens.tolist(), "checkpoints": sorted(entry.checkpoints)})
        index = at / f".{uuid.uuid4().hex}.json"
        index.write_text(json.dumps({"version": VERSION, "model": key, "entries": rows}))
        index.replace(at / INDEX)
        for file in before:
            file.unlink(missing_ok=True)
    except OSError as e:
        raise SourceError(f"the prefixes can't be written ({e})", where=at) from e
    return len(rows)


def load_entries(store: PrefixStore, folder: Any, model: Any, key: str) -> int:
    """See `PrefixStore.load`."""
    at = Path(folder)
    try:
        index = json.loads((at / INDEX).read_text())
        found, rows = index["model"], [_row(row) for row in index["entries"]]
    except OSError as e:
        raise SourceError(f"the prefixes can't be read ({e.strerror})", where=at / INDEX) from e
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise SourceError("not an index of prefixes, or a damaged one", where=at / INDEX) from e
    if found != key:
        problem = "these prefixes were read by another model, or with other cache settings"
        raise SourceError(problem, where=at / INDEX, found=str(found)[:80], expected=key)
    for entry in [_read(at, model, *row) for row in rows]:  # all or nothing
        store.insert(key, entry.tokens.tolist(), entry.state, entry.checkpoints)
    return len(rows)


def _row(row: dict[str, Any]) -> tuple[str, np.ndarray, list[int]]:
    tokens, places = np.array(row["tokens"], np.int64), [int(place) for place in row["checkpoints"]]
    if tokens.ndim != 1 or not row["name"].isalnum():
        raise ValueError("not an entry")
    return row["name"], tokens, places


def _read(at: Path, model: Any, name: str, tokens: np.ndarray, places: list[int]) -> Entry:
    state = load_prompt_cache(at / f"{name}.safetensors", model)
    if state.offset != len(tokens):
        problem = "the memory is not of these tokens"
        raise SourceError(problem, where=at / name, found=f"{state.offset} tokens", expected=len(tokens))
    checkpoints = {}
    for place in places:
        part = load_prompt_cache(at / f"{name}.{place}.safetensors", model)
        if part.offset != place or not place < len(tokens):
            raise SourceError("a checkpoint of another place", where=at / name, found=part.offset, expected=place)
        checkpoints[place] = Checkpoint(place, place, tuple(map(_as_mark, part)))
    return Entry(tokens, state, checkpoints)


def _as_state(checkpoint: Checkpoint, state: State) -> State:
    """A checkpoint as a state whose layers are empty where trimming is enough."""
    new = State(_filled(mark, cache) for mark, cache in zip(checkpoint.layers, state, strict=True))
    new.offset = checkpoint.offset
    return new


def _filled(mark: Any, cache: Any) -> Any:
    if isinstance(cache, CompositeCache):
        marks = mark if mark is not None else [None] * len(cache.parts)
        return CompositeCache(*(_filled(m, part) for m, part in zip(marks, cache.parts, strict=True)))
    if mark is not None or isinstance(cache, NoCache):
        return mark or cache
    return KVCache()


def _as_mark(cache: Any) -> Any:
    if isinstance(cache, CompositeCache):
        marks = [_as_mark(part) for part in cache.parts]
        return marks if any(mark is not None for mark in marks) else None
    return None if isinstance(cache, NoCache) or type(cache) is KVCache else cache


