"""A conversation as JSON: messages in the form that chat templates take, written whole or not at all."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SourceError
from ..text.messages import check_messages

FORMAT, VERSION = "mlxlm-chat", 1


@dataclass(frozen=True)
class Attached:
    """An image or video that the caller gave with a message: of his own accord, so that a path is a file of his."""

    value: Any


def with_media(text: str, images: list[Any], videos: list[Any]) -> str | list[dict[str, Any]]:
    """A message's content: media before the text."""
    parts = [{"type": kind, kind: Attached(one)} for kind, values in (("image", images), ("video", videos))
             for one in values]
    return [*parts, {"type": "text", "text": text}] if parts else text


def detached(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """(the messages with empty parts for what was attached, the attached images and videos in order)."""
    found: dict[str, list[Any]] = {"images": [], "videos": []}

    def empty(part: Any) -> Any:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or not isinstance(part.get(kind), Attached):
            return part
        found[f"{kind}s"].append(part[kind].value)
        return {"type": kind}

    out = [{**m, "content": [empty(part) for part in m["content"]]} if isinstance(m.get("content"), list) else m
           for m in messages]
    return out, {name: values for name, values in found.items() if values}


def write(path: Path, document: dict[str, Any]) -> None:
    """Writes JSON beside the file and renames it, so that there is never half of one. Raises SourceError."""
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **document}, ensure_ascii=False, indent=1,
                          default=_encoded)
    except (TypeError, ValueError, RecursionError) as error:
        raise SourceError(f"the conversation can't be written as JSON: {error}", where=path) from error
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            temporary = file.name
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise SourceError(f"it can't be written ({error.strerror})", where=path) from error


def _encoded(value: Any) -> Any:
    """What JSON has no form for: attached media, as the path or URL that they came as, else as data URLs."""
    if isinstance(value, Attached):
        return {"attached": value.value}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return "data:application/octet-stream;base64," + base64.b64encode(value).decode()
    if callable(save := getattr(value, "save", None)):
        buffer = io.BytesIO()
        save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, checked. Raises SourceError for a file that can't be read, ConfigError for a wrong one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"it can't be read ({error.strerror})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON ({error})", where=path) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError("not a conversation", where=path, expected=f'an object with "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise ConfigError("a conversation of another version", where=path, found=repr(document.get("version"))[:20],
                          expected=VERSION)
    messages = document.get("messages")
    if messages:
        check_messages(messages)
        document["messages"] = [_attached(message) for message in messages]
    elif messages != []:
        raise ConfigError("not a list of messages", where=path, found=repr(messages)[:60])
    if not isinstance(document.get("instructions"), str | None):
        raise ConfigError("instructions must be text", where=path, found=repr(document["instructions"])[:60])
    return document


def saved_ids(text: Any, where: Path) -> tuple[list[int], int]:
    """(the ids that a saved cache has read, where its media end). Raises SourceError for a cache of something else."""
    try:
        ids, media_end = json.loads(text or "")
    except (ValueError, TypeError, RecursionError) as error:
        raise SourceError("not the cache of a conversation", where=where) from error
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in [*ids, media_end]):
        raise SourceError("not the cache of a conversation", where=where)
    return ids, media_end


def _attached(message: dict[str, Any]) -> dict[str, Any]:
    """The message with what was attached to it, attached again."""
    content = message.get("content")
    if not isinstance(content, list):
        return message

    def part(one: Any) -> Any:
        kind = one.get("type") if isinstance(one, dict) else None
        value = one.get(kind) if isinstance(kind, str) else None
        return {**one, kind: Attached(value["attached"])} if isinstance(value, dict) and "attached" in value else one

    return {**message, "content": [part(one) for one in content]}
