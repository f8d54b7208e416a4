"""Frames of JSON: between tags, or bare among the text of an answer."""

from __future__ import annotations

import re

from .calls import Draft, Piece
from .cursor import Cursor, Reading
from .format import Frame, attach, broken, reject
from .jsontext import decode, drafts, is_call, scan

CALL_KEYS = ('"name"', '"arguments"', '"parameters"', '"function"', '"id"', '"type"')
INTENT = re.compile(r'"name"\s*:\s*"'), re.compile(r'"(?:arguments|parameters)"\s*:')


def tagged(cursor: Cursor, opener: str, closers: tuple[str, ...], *, must_close: bool = True) -> Reading[Frame]:
    """JSON values between an opener and a closer, each a call or a list of calls.

    Complete calls count without the closer at the end of the text. Other text beside the JSON spoils the frame up
    to its closer; without a closer, what follows the last call is outside it (with ``must_close`` off, always).
    """
    found: list[Draft] = []
    start, at = 0, len(opener)
    while True:
        at = yield from cursor.skip(at)
        mark = yield from cursor.starts(at, (*closers, opener, "{", "[", ",", ";"))
        if mark in ("{", "["):
            end, part, ended = yield from _value(cursor, start, at, closers, opener)
            found += part
            if ended:
                return Frame(end, found)
            start = at = end
        elif mark in closers or (mark is None and at == len(cursor.text)):
            end = at + len(mark or "")
            if not found:
                found = [reject("", "malformed_syntax" if mark else "incomplete_output", "there is no call in it")]
            attach(found, cursor.text[start:end])
            return Frame(end, found)
        elif mark in (",", ";") and found:
            at += 1
        elif found and (mark == opener or not must_close):
            return Frame(start, found)
        else:
            return (yield from _stray(cursor, start, at, found, closers, opener))


def _value(cursor: Cursor, start: int, at: int, closers: tuple[str, ...],
           opener: str) -> Reading[tuple[int, list[Draft], bool]]:
    """The calls of the JSON value at ``at``: where it ends, the calls, and whether the frame ends there."""
    scanned = yield from scan(cursor, at)
    inner, end = at, scanned.end
    if scanned.state == "bad" and cursor.text.startswith("{{", at):
        # Some models double the outer braces, as in the templates that they have seen.
        doubled = yield from scan(cursor, at + 1)
        outer = yield from cursor.skip(doubled.end)
        if doubled.state == "ok" and (yield from cursor.starts(outer, ("}",))):
            inner, end = at + 1, outer + 1
            scanned = doubled
    if scanned.state != "ok":
        end, rejected, _ = yield from broken(cursor, start, scanned, at, closers, "not JSON", (opener,))
        return end, [rejected], True
    part = drafts(cursor.text[inner:scanned.end])
    part[0].raw = cursor.text[start:inner] + part[0].raw
    attach(part, cursor.text[scanned.end:end])
    return end, part, False


def _stray(cursor: Cursor, start: int, at: int, found: list[Draft], closers: tuple[str, ...],
           opener: str) -> Reading[Frame]:
    place, marker = yield from cursor.find(at, (*closers, opener))
    if marker in closers:
        end = place + len(marker or "")
        return Frame(end, [reject(cursor.text[:end], detail="text beside the JSON")])
    if found:
        return Frame(start, found)
    reason = "incomplete_output" if marker is None else "malformed_syntax"
    return Frame(place, [reject(cursor.text[:place], reason, "a call was opened, and none came")])


def bare(cursor: Cursor, opener: str) -> Reading[Frame | None]:
    """A JSON object or list among the text: calls, or content up to where it ends or stops being JSON.

    A list counts only if it begins with an object. What can't be a call isn't held back.
    """
    at = yield from cursor.skip(1)
    if opener == "[":
        if (yield from cursor.starts(at, ("{",))) is None:
            return None
        at = yield from cursor.skip(at + 1)
    candidate = (yield from cursor.starts(at, CALL_KEYS)) is not None
    shown, steps = 0, scan(cursor, 0)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            scanned = stop.value
            break
        if not candidate and len(cursor.text) > shown:
            yield Piece("content", cursor.text[shown:])
            shown = len(cursor.text)
        yield None
    text = cursor.text[:scanned.end]
    if candidate and scanned.state == "ok" and is_call(decode(text)[1]):
        return Frame(scanned.end, drafts(text))
    if candidate and scanned.state == "cut" and all(pattern.search(text) for pattern in INTENT):
        return Frame(scanned.end, [reject(text, "incomplete_output", "the JSON of a call was cut")])
    return Frame(scanned.end, [], shown)
