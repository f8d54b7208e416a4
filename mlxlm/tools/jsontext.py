"""JSON inside other text: where a value ends, strictly and while it arrives, and what calls a value holds."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from .calls import Draft
from .cursor import Cursor, Reading

SPECIAL = re.compile(r'["\\]')
SCALAR = re.compile(r"[-+.\w]*")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
BEGUN_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]*(?:[eE][-+]?)?")
WORDS = ("true", "false", "null")
BETWEEN = re.compile(r"[\s,]*")
ARGUMENTS = ("arguments", "parameters")


class Scan(NamedTuple):
    """``end`` is where the value ends (ok), how far it was read when it wasn't JSON (bad), or the text's end (cut)."""

    end: int
    state: Literal["ok", "bad", "cut"]


def scan(cursor: Cursor, start: int) -> Reading[Scan]:
    """Reads over the JSON value at ``start``; raw control characters in strings are let pass."""
    open_: list[str] = []
    expected, at = "value", start
    while True:
        at = yield from cursor.skip(at)
        if at >= len(cursor.text):
            return Scan(at, "cut")
        char = cursor.text[at]
        step = _step(expected, char, open_)
        if step is None:
            return Scan(at, "bad")
        expected = step
        if char == '"':
            end = yield from string_end(cursor, at + 1)
            if end is None:
                return Scan(len(cursor.text), "cut")
            at = end
        elif char in "{}[],:":
            at += 1
        else:
            end = yield from cursor.run(at, SCALAR)
            word = cursor.text[at:end]
            if not _is_scalar(word):
                return Scan(end, "cut" if end == len(cursor.text) and _begins_scalar(word) else "bad")
            at = end
        if expected == "next" and not open_:
            return Scan(at, "ok")


def _step(expected: str, char: str, open_: list[str]) -> str | None:
    """What may follow ``char``, or None if it may not stand here; keeps the stack of open brackets."""
    if char in "}]":
        closes = {"}": ("{", "key or end"), "]": ("[", "value or end")}[char]
        if not open_ or open_[-1] != closes[0] or expected not in ("next", closes[1]):
            return None
        open_.pop()
        return "next"
    if expected == "next":
        return {"{": "key", "[": "value"}[open_[-1]] if char == "," else None
    if expected == "colon":
        return "value" if char == ":" else None
    if expected.startswith("key"):
        return "colon" if char == '"' else None
    if char in ",:":
        return None
    if char in "{[":
        open_.append(char)
        return "key or end" if char == "{" else "value or end"
    return "next"


def _is_scalar(text: str) -> bool:
    return text in WORDS or NUMBER.fullmatch(text) is not None


def _begins_scalar(text: str) -> bool:
    return any(word.startswith(text) for word in WORDS) or BEGUN_NUMBER.fullmatch(text) is not None


def string_end(cursor: Cursor, at: int, pattern: re.Pattern[str] = SPECIAL) -> Reading[int | None]:
    """The position after the closing quote, ``at`` being inside the string; None if the text ends before it."""
    while True:
        match = pattern.search(cursor.text, at)
        if match is not None and match[0] != "\\":
            return match.end()
        if match is not None and match.end() < len(cursor.text):
            at = match.end() + 1
            continue
        if cursor.ended:
            return None
        at = len(cursor.text) if match is None else match.start()
        yield None


def decode(text: str) -> tuple[bool, Any]:
    """(True, the value), or (False, None) for what isn't JSON."""
    try:
        return True, json.loads(text, strict=False, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(name: str) -> None:
    raise ValueError(name)


def encode(value: Any) -> str:
    """JSON on one line, with the text as it is, as chat templates write it."""
    return json.dumps(value, ensure_ascii=False)


def drafts(text: str) -> list[Draft]:
    """The calls that JSON text holds: an object, a list of them, or OpenAI's envelope; each with its part of it."""
    fine, value = decode(text)
    if not fine:
        return [Draft(text, reason="malformed_syntax", detail="not JSON")]
    if not isinstance(value, list) or not value:
        return [_draft(value, text)]
    cuts = [0, *_item_ends(text, len(value))[:-1], len(text)]
    return [_draft(one, text[start:end]) for one, start, end in zip(value, cuts, cuts[1:], strict=False)]


def _item_ends(text: str, count: int) -> list[int]:
    """Where each item of a JSON list ends, the list being known to be good."""
    decoder = json.JSONDecoder(strict=False)
    ends, at = [], text.index("[") + 1
    for _ in range(count):
        at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        at = decoder.raw_decode(text, at)[1]
        ends.append(at)
    return ends


def _draft(value: Any, raw: str) -> Draft:
    if not isinstance(value, dict):
        return Draft(raw, reason="malformed_syntax", detail="a call must be a JSON object")
    inner = value["function"] if isinstance(value.get("function"), dict) else value
    identity = next((i for i in (value.get("id"), inner.get("id")) if isinstance(i, str) and i), None)
    name = inner.get("name")
    key = next((key for key in ARGUMENTS if key in inner), None)
    return Draft(raw, name=name if isinstance(name, str) else None, id=identity,
                 arguments=arguments_of(inner[key]) if key else {})


def arguments_of(value: Any) -> Any:
    """Arguments as they came, or out of the JSON text that some models put them in; no value means none."""
    if value is None:
        return {}
    if isinstance(value, str):
        fine, inner = decode(value)
        return inner if fine and isinstance(inner, dict) else value
    return value


def is_call(value: Any) -> bool:
    """Whether an untagged value is beyond doubt a call, or a list of calls: it has a name and arguments."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) and is_call(one) for one in value)
    inner = value.get("function", value) if isinstance(value, dict) else None
    return isinstance(inner, dict) and isinstance(inner.get("name"), str) and any(key in inner for key in ARGUMENTS)
