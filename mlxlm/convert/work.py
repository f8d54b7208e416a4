"""A folder under construction: what is whole outlives a kill, and nothing looks like a model till the end.

The work lies beside its place under a hidden name that follows from it, so that the same command finds it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import SourceError, UsageError

NOTES = "converting.json"
PIECE = 1 << 24


class Work:
    """The hidden folder, and the notes in it: which plan it follows, and the SHA-256 of each finished file."""

    def __init__(self, folder: Path, plan: dict[str, Any]):
        self.folder = folder
        self._plan = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
        self._done: dict[str, str] = {}
        notes = _read(folder / NOTES)
        if notes.get("plan") == self._plan and isinstance(notes.get("done"), dict):
            self._done = notes["done"]
        else:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._note()

    def has(self, file: str) -> bool:
        """Whether a file was finished, and still is what it was."""
        path = self.folder / file
        return file in self._done and path.is_file() and _sha256(path) == self._done[file]

    def finished(self, file: str, digest: str) -> None:
        """Notes that a file is whole and on the disk."""
        self._done[file] = digest
        self._note()

    def _note(self) -> None:
        part = self.folder / f"{NOTES}.part"
        part.write_text(json.dumps({"plan": self._plan, "done": self._done}))
        os.replace(part, self.folder / NOTES)


@contextlib.contextmanager
def working(folder: Path, plan: dict[str, Any]) -> Iterator[Work]:
    """A `Work` that becomes ``folder`` when the block ends well; after a failure or a kill it stays, to go on with.

    Raises UsageError for a folder that holds something, or that another process is converting to.
    """
    folder = folder.absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError("there is something already", where=folder, hint="Choose a new folder, or empty this one.")
        hidden = folder.with_name(f".{folder.name}.converting")
        hidden.mkdir(parents=True, exist_ok=True)
        with _alone(hidden):
            work = Work(hidden, plan)
            yield work
            (hidden / NOTES).unlink()
            os.replace(hidden, folder)
    except OSError as error:
        raise SourceError(f"the model can't be written ({error.strerror})", where=error.filename or folder) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when its holder ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError("another process is converting to this folder", where=folder) from error
    try:
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
