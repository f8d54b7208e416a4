"""Small files: JSON that may be missing, broken, huge or not text; texts that appear whole or not at all; sizes."""

import json
import os
from pathlib import Path
from typing import Any

from .errors import ConfigError, SourceError

MOST_BYTES = 256 << 20  # no settings file is as long; a tokenizer.json is the longest that is honest


def read_json(path: Path, *, required: bool = False, hint: str | None = None) -> Any:
    """The file's content, or None where it is missing and not required."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(
                "the file is too large to be what its name says", where=path, found=f"{path.stat().st_size} bytes"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as e:
        if required:
            raise SourceError("the file is missing", where=path, hint=hint) from e
        return None
    except UnicodeDecodeError as e:
        raise ConfigError(
            "the file isn't text in UTF-8", where=path, hint="The download may be damaged: pull it again."
        ) from e
    except OSError as e:
        raise SourceError(f"the file can't be read ({e.strerror})", where=path) from e
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigError(f"it isn't JSON ({e.msg}, line {e.lineno})", where=path) from e
    except (RecursionError, ValueError) as e:
        raise ConfigError("it isn't JSON that can be read (nested too deep, or a number too long)", where=path) from e


def read_object(path: Path, *, required: bool = False, hint: str | None = None) -> dict[str, Any] | None:
    """As ``read_json``, for files that must hold an object."""
    value = read_json(path, required=required, hint=hint)
    if value is not None and not isinstance(value, dict):
        raise ConfigError("it must hold a JSON object", where=path, found=type(value).__name__)
    return value


def write_text(path: Path, text: str) -> None:
    """The text into a file, by rename: a reader sees the old file or the new one. SourceError where that fails."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise SourceError(f"it can't be written: {error.strerror}", where=path) from error


def size(count: float) -> str:
    """Bytes for people, in powers of ten: 1.5 GB is 1.5 * 10^9 bytes."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale * 0.9995:  # what is rounded up to a thousand is one of the next
            return f"{count / scale:.3g} {unit}"
    return f"{int(count)} bytes"
