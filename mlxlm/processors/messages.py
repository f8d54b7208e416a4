"""Media in messages: which parts of a message are images and videos, where each comes from, and whom it may come from.

What the caller passes as ``images`` or ``videos`` is trusted: any path will do. What a message names may have come
from anywhere (a server relays messages), so that a text is never taken for a local path there, unless a `MediaPolicy`
says so; a `pathlib.Path`, an image object and bytes are taken, as no message from elsewhere can hold them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MediaError

_PARTS = {"image": "image", "image_url": "image", "input_image": "image", "video": "video", "video_url": "video"}
_KEYS = {"image": ("image", "url", "path", "image_url", "base64"), "video": ("video", "url", "path", "video_url")}


@dataclass(frozen=True)
class MediaPolicy:
    """What media may be, and where they may come from.

    local_paths: messages may name files of this machine; what is passed as ``images`` and ``videos`` always may.
    remote: URLs are fetched at all. private_hosts: also from loopback, private and link-local addresses.
    max_bytes, max_pixels: of one image or video frame, before it is decoded. timeout: seconds for one URL in all.
    max_items: images and videos in one prompt. max_frames: of one video.
    """

    local_paths: bool = False
    remote: bool = True
    private_hosts: bool = False
    max_bytes: int = 64 << 20
    max_video_bytes: int = 1 << 30
    max_pixels: int = 100_000_000
    max_items: int = 1000
    max_frames: int = 4096
    timeout: float = 30.0


@dataclass(frozen=True)
class Source:
    """Where one image or video comes from; ``trusted`` if the caller passed it, and not within a message."""

    kind: str
    value: Any
    trusted: bool
    where: str = "images"


class _Missing:
    """A part that names no source of its own."""


def part_kind(part: Any) -> str | None:
    """"image" or "video" for a part of a message that stands for one, else None."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind in _PARTS:
        return _PARTS[kind]
    return next((k for k in ("image", "video") if kind is None and k in part), None)


def _source(part: Mapping[str, Any], kind: str) -> Any:
    """What a part names: a source, or `_Missing`."""
    for key in _KEYS[kind]:
        value = part.get(key)
        if isinstance(value, Mapping):  # {"image_url": {"url": …}}
            value = value.get("url")
        if value is not None:
            if key == "base64" and isinstance(value, str) and not value.startswith("data:"):
                value = f"data:image/*;base64,{value}"
            return value
    return _Missing


def attached(messages: Any, sources: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Messages whose parts without a source have been given one each, in order, of the caller's.

    Where there is no such part, the caller's media come before the text of the user's last message. Raises MediaError
    if they don't fit.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise MediaError("not a list of messages", where="prompt", found=type(messages).__name__)
    queues = {kind: list(values) for kind, values in sources.items()}
    empty = {kind: 0 for kind in queues}
    out = [_filled(message, f"messages[{i}]", queues, empty) for i, message in enumerate(messages)]
    for kind, left in queues.items():
        if left and empty[kind]:
            raise MediaError(f"more {kind}s than parts of messages that wait for one", where=f"{kind}s",
                             found=len(sources[kind]), expected=empty[kind])
    rest = [{"type": kind, "source": Source(kind, value, True, f"{kind}s")}
            for kind, left in queues.items() for value in left]
    if rest:
        _put_before_last_text(out, rest)
    return out


def _filled(message: Any, where: str, queues: dict[str, list], empty: dict[str, int]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MediaError("not a message", where=where, found=type(message).__name__)
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return dict(message)
    parts = []
    for i, part in enumerate(content):
        kind = part_kind(part)
        if kind is None:
            parts.append({"type": "text", "text": part} if isinstance(part, str) else _text_part(part))
            continue
        value, at = _source(part, kind), f"{where}.content[{i}]"
        if value is _Missing:
            empty[kind] += 1
            if not queues[kind]:
                raise MediaError(f"a part of type {kind} without a source", where=at,
                                 expected=f"one more of {kind}s, or a url in the part")
            parts.append({"type": kind, "source": Source(kind, queues[kind].pop(0), True, f"{kind}s")})
        else:
            parts.append({"type": kind, "source": Source(kind, value, False, at)})
    return {**message, "content": parts}


def _text_part(part: Any) -> Any:
    """The Responses API's input_text and output_text are text."""
    if isinstance(part, Mapping) and part.get("type") in ("input_text", "output_text"):
        return {**part, "type": "text"}
    return part


def _put_before_last_text(messages: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    last = next((m for m in reversed(messages) if m.get("role") == "user"), None)
    if last is None:
        raise MediaError("no message of the user to put the media into", where="messages")
    content = last.get("content") or ""
    last["content"] = [*parts, *([{"type": "text", "text": content}] if isinstance(content, str) else content)]


def collected(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Source]]:
    """(messages as a template takes them, their media's sources in order)."""
    out, sources = [], []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            sources += [part["source"] for part in content if _is_medium(part)]
            content = [{"type": part["type"]} if _is_medium(part) else part for part in content]
            if not any(isinstance(p, Mapping) and part_kind(p) for p in content) and all(map(_is_text, content)):
                content = "".join(p["text"] for p in content)
            message = {**message, "content": content}
        out.append(dict(message))
    return out, sources


def _is_medium(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("source"), Source)


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def flattened(messages: Sequence[Mapping[str, Any]], inline: Mapping[str, str]) -> list[dict[str, Any]]:
    """Messages whose contents are text, with ``inline`` where media stand: for templates that know no parts."""
    out = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            pieces = [inline.get(part_kind(p) or "", "") or (p.get("text", "") if isinstance(p, Mapping) else str(p))
                      for p in content]
            message = {**message, "content": "".join(pieces)}
        out.append(dict(message))
    return out
