"""Calls in Python's notation: where they end, and what they say; literals are read, nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .calls import Draft, ToolCall
from .cursor import Cursor, Reading
from .format import Frame, attach, reject
from .jsontext import string_end
from .literals import Literals, NotALiteral
from .schema import Toolbox, settle

NAME = re.compile(r"[A-Za-z_][\w.-]*")
KEY = re.compile(r"\w+")
WORD = re.compile(r"[\w.-]*")
STRINGS = {"'": re.compile(r"['\\]"), '"': re.compile(r'["\\]')}
BEFORE_TEXT = "=,([{: \t\r\n"
PAIRS = {")": "(", "]": "[", "}": "{"}
WRAPPERS = ("properties", "parameters", "arguments", "args", "kwargs")


def tagged(cursor: Cursor, opener: str, closers: tuple[str, ...], toolbox: Toolbox) -> Reading[Frame]:
    """Calls between an opener and a closer (which may be missing at the end of the text)."""
    at = len(opener)
    first: int | None = None
    while True:
        place, marker = yield from cursor.find(at, (*closers, *STRINGS))
        if marker not in STRINGS:
            break
        at = place + 1
        if cursor.text[place - 1] in BEFORE_TEXT or place == len(opener):
            end = yield from string_end(cursor, at, STRINGS[marker])
            if end is None:
                inside = [(found, one) for one in closers if (found := cursor.text.find(one, at)) >= 0]
                place, marker = min(inside) if inside else (len(cursor.text), None)
                break
            at = end
    first = place + len(marker or "")
    found, error = calls_in(cursor.text[:place], len(opener), toolbox)
    if error is not None:
        reason = "incomplete_output" if marker is None else "malformed_syntax"
        return Frame(first, [reject(cursor.text[:first], reason, error)])
    attach(found, cursor.text[place:first])
    return Frame(first, found)


def untagged(cursor: Cursor, toolbox: Toolbox) -> Reading[Frame | None]:
    """A list of calls among the text, from its bracket on; None, or content, where it turns out to be none."""
    if not (yield from _begins(cursor)):
        return None
    open_: list[str] = []
    at = 0
    while True:
        at, marker = yield from cursor.find(at, (*STRINGS, *PAIRS, *PAIRS.values()))
        if marker is None:
            return Frame(at, [reject(cursor.text, "incomplete_output", "the list of calls was cut")])
        at += 1
        if marker in STRINGS and cursor.text[at - 2] in BEFORE_TEXT:
            end = yield from string_end(cursor, at, STRINGS[marker])
            at = len(cursor.text) if end is None else end
        elif marker in PAIRS:
            if open_.pop() != PAIRS[marker]:
                return Frame(at, [])
            if not open_:
                found, error = calls_in(cursor.text[:at], 0, toolbox)
                return Frame(at, found if error is None else [])
        elif marker not in STRINGS:
            open_.append(marker)


def _begins(cursor: Cursor) -> Reading[bool]:
    """Whether the text begins as ``[name()`` or ``[name(key=`` does."""
    at = yield from cursor.skip(1)
    end = yield from cursor.run(at, WORD)
    if NAME.fullmatch(cursor.text[at:end]) is None or (yield from cursor.starts(end, ("(",))) is None:
        return False
    at = yield from cursor.skip(end + 1)
    if (yield from cursor.starts(at, (")", "**{"))):
        return True
    end = yield from cursor.run(at, WORD)
    after = yield from cursor.skip(end)
    return end > at and (yield from cursor.starts(after, ("=",))) is not None


def calls_in(text: str, start: int, toolbox: Toolbox) -> tuple[list[Draft], str | None]:
    """The calls from ``start``, in brackets or one after the other; each with its part of the text, or what's wrong."""
    reader = Literals(text)
    reader.at = start
    found: list[Draft] = []
    done = 0
    try:
        closing = "]" if reader.take("[") else None
        while reader.skip() and not (closing and reader.text.startswith(closing, reader.at)):
            if found and (reader.take(",") or reader.take(";")):
                continue
            name = reader.match(NAME)
            arguments = _arguments(reader, name, toolbox)
            found.append(Draft(text[done:reader.at], name, arguments))
            done = reader.at
        if closing:
            reader.need(closing)
        if reader.skip():
            raise NotALiteral("text behind the calls")
    except NotALiteral as error:
        return [], str(error)
    if not found:
        return [], "there is no call in it"
    attach(found, text[done:])
    return found, None


def _arguments(reader: Literals, name: str, toolbox: Toolbox) -> dict[str, Any]:
    reader.need("(")
    found: dict[str, Any] = {}
    while not reader.take(")"):
        if reader.take("**"):
            found |= reader.dict(0)
        else:
            key = reader.match(KEY)
            reader.need("=")
            found[key] = reader.value(",)")
        if not reader.take(","):
            reader.need(")")
            break
    schema = toolbox.schema(name)
    settled = settle(found, schema, schema or {})
    if schema and len(settled) == 1:
        key, inner = next(iter(settled.items()))
        if key in WRAPPERS and isinstance(inner, dict) and toolbox.parameter(name, key)[0] is None:
            return settle(found[key], schema, schema) if isinstance(found[key], dict) else inner
    return settled


def write(calls: Sequence[ToolCall]) -> str:
    """The calls as a Python list of calls; a name that Python wouldn't take as an argument's goes into ``**``."""
    return "[" + ", ".join(f"{call.name}({_written(call.arguments)})" for call in calls) + "]"


def _written(arguments: dict[str, Any]) -> str:
    if all(KEY.fullmatch(key) for key in arguments):
        return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"**{arguments!r}"
