"""What was downloaded: every model in the hub's cache and in the cache of wheels; looked at, verified, removed.

It reads the hub's cache by its documented layout, so that listing costs no import of the hub's client.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import SourceError, UsageError
from . import hub, wheels
from .disk import explain

WEIGHTS = (".safetensors", ".gguf")
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_PIECE = 1 << 20
_REMOVED = ".removed-"


@dataclass(frozen=True)
class Stored:
    """One downloaded model. ``size`` in bytes, on the disk; ``used`` in seconds since the epoch.

    ``name`` is what `load` takes; ``folder`` all that goes when it is removed; ``whole`` is False while parts of it
    are missing; ``model_type`` and ``quantization`` come from its config.json, or from a GGUF's name.
    """

    name: str
    folder: Path
    size: int
    used: float
    whole: bool
    model_type: str | None = None
    quantization: str | None = None
    revisions: tuple[str, ...] = ()


def stored() -> list[Stored]:
    """Every downloaded model, by name; repositories without weights (datasets, a tokenizer alone) aren't models."""
    found = [*_hub_models(), *_wheel_models()]
    return sorted(found, key=lambda model: model.name.lower())


def find(name: str) -> Stored:
    """The stored model of that name. Raises UsageError with the close ones where there is none."""
    models = {model.name: model for model in stored()}
    wanted = _as_stored(name)
    if wanted in models:
        return models[wanted]
    close = get_close_matches(name, models, 1, cutoff=0.5)
    hint = f"Did you mean {close[0]}?" if close else "`mlxlm list` shows what is here."
    raise UsageError("no such model is downloaded", where=name, hint=hint)


def remove(model: Stored) -> int:
    """Takes a model off the disk and returns the bytes that were freed. It is out of sight at once, or not at all."""
    hidden = model.folder.with_name(f"{_REMOVED}{uuid.uuid4().hex}")
    try:
        os.rename(model.folder, hidden)
        for left in model.folder.parent.glob(f"{_REMOVED}*"):  # an interrupted removal's too
            shutil.rmtree(left)
    except OSError as error:
        raise explain(error, model.name) or SourceError(f"it can't be removed: {error}", where=model.name) from error
    return model.size


def verify(model: Stored, progress: Callable[[int], Any] = lambda count: None) -> list[str]:
    """The files whose content isn't what the hub said it would be; ``progress`` is told of bytes as they are read.

    The hub names a file's content by its SHA-256 (large files) or by git's SHA-1. A wheel's files were checked
    against the wheel's own record when it was unpacked.
    """
    bad = []
    for path in sorted((model.folder / "blobs").glob("*")):
        if path.is_file() and not _agrees(path, progress):
            bad.extend(_names_of(model.folder, path) or [path.name])
    return bad


def _agrees(path: Path, progress: Callable[[int], Any]) -> bool:
    if _SHA256.fullmatch(path.name):
        digest = hashlib.sha256()
    elif _SHA1.fullmatch(path.name):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return True  # a partial download, or a server that names contents otherwise
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                progress(len(piece))
    except OSError as error:
        raise SourceError(f"it can't be read: {error.strerror}", where=path) from error
    return digest.hexdigest() == path.name


def _names_of(folder: Path, blob: Path) -> list[str]:
    """The files of the snapshots that a blob is the content of."""
    snapshots = folder / "snapshots"
    return sorted({str(path.relative_to(snapshots)).split("/", 1)[1] for path in snapshots.rglob("*")
                   if path.is_symlink() and path.resolve() == blob.resolve()})


def _as_stored(name: str) -> str:
    """The name that a source's files are stored under: a preset's id, a hub id without the file that it picks."""
    from ..registry import LLMRegistry, VLMRegistry

    for registry in (LLMRegistry, VLMRegistry):
        if registry.contains(name):
            name = str(registry.configuration(name).id)
    if name.startswith(wheels.PREFIX):
        return wheels.PREFIX + re.sub(r"[-_.]+", "-", name[len(wheels.PREFIX):].partition("==")[0]).lower()
    return name.partition(":")[0]


def _hub_models() -> Iterator[Stored]:
    for folder in _folders(hub.cache_folder()):
        if not folder.name.startswith("models--"):
            continue
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshots = _folders(folder / "snapshots")
        weights = [path for s in snapshots for path in s.rglob("*") if path.suffix.lower() in WEIGHTS]
        partial = list((folder / "blobs").glob("*.incomplete"))
        if not weights and not partial:
            continue
        newest = max(snapshots, key=lambda path: path.stat().st_mtime, default=folder)
        yield Stored(name, folder, *_disk(folder), hub.whole_snapshot(newest) if weights else False,
                     *_kind(newest), tuple(sorted(path.name for path in snapshots)))


def _wheel_models() -> Iterator[Stored]:
    for folder in _folders(wheels.cache_folder()):
        versions = _folders(folder)
        if versions and not folder.name.startswith("."):
            yield Stored(wheels.PREFIX + folder.name, folder, *_disk(folder), True, *_kind(versions[-1]),
                         tuple(path.name for path in versions))


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:
        return []


def _disk(folder: Path) -> tuple[int, float]:
    """(bytes, time of last use) of the files below a folder; links count nothing."""
    size, used = 0, 0.0
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        status = path.stat()
        size, used = size + status.st_size, max(used, status.st_atime, status.st_mtime)
    return size, used


def _kind(folder: Path) -> tuple[str | None, str | None]:
    """(model_type, quantization) as far as small files and names tell."""
    from .. import names

    ggufs = sorted(path.name for path in folder.rglob("*.gguf"))
    if ggufs:
        levels = {names.parse(name.replace(" ", "-")[-200:]).level for name in ggufs}
        return "gguf", ", ".join(sorted(level for level in levels if level)) or None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = config.get("quantization") or config.get("quantization_config") or {}
        return config.get("model_type"), _quantization(settings)
    except (OSError, ValueError, AttributeError):
        return None, None


def _quantization(settings: dict[str, Any]) -> str | None:
    if "bits" in settings:
        return f"{settings.get('quant_method') or ''} {settings['bits']}-bit".strip()
    return settings.get("quant_method")
