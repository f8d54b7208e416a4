"""Calls as a header and a JSON object, several in a section: how Kimi and DeepSeek write them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from .calls import Draft
from .cursor import Cursor, Reading
from .format import Format, Frame, attach, broken, reject
from .jsontext import arguments_of, decode, scan


class Sections(Format):
    """``sections`` open and ``section_ends`` close a section; ``call`` and ``call_end`` enclose a call in it.

    ``separator`` stands in the header. Sections and calls may come without their enclosing markers.
    """

    sections: ClassVar[tuple[str, ...]]
    section_ends: ClassVar[tuple[str, ...]]
    call: ClassVar[str]
    call_end: ClassVar[str]
    separator: ClassVar[str]
    fenced: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def header(cls, before: str, after: str) -> tuple[str | None, str | None]:
        """The name and the id, from the header's text before the separator, and from there to the JSON."""

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        found: list[Draft] = []
        start, at = 0, len(opener) if opener in self.sections else 0
        in_section = opener in self.sections
        while True:
            at = yield from cursor.skip(at)
            mark = yield from cursor.starts(at, (self.call, *self.section_ends, *self.sections))
            if mark == self.call or (mark is None and at < len(cursor.text) and (in_section or not found)
                                     and (not found or (yield from self._goes_on(cursor, at)))):
                at, draft = yield from self._call(cursor, start, at)
                found.append(draft)
                start = at
            elif mark in self.section_ends and in_section:
                end = at + len(mark or "")
                found = found or [reject("", detail="a section without a call")]
                attach(found, cursor.text[start:end])
                return Frame(end, found)
            elif found:
                return Frame(start, found) if mark or at < len(cursor.text) else self._rest(cursor, start, found)
            else:
                return Frame(at, [reject(cursor.text[:at], "incomplete_output", "a section was opened, and no more")])

    @staticmethod
    def _rest(cursor: Cursor, start: int, found: list[Draft]) -> Frame:
        attach(found, cursor.text[start:])
        return Frame(len(cursor.text), found)

    def _goes_on(self, cursor: Cursor, at: int) -> Reading[bool]:
        """Whether a header begins here, though no marker says so; else the section has been left open."""
        marks = (self.separator, self.call, *self.section_ends, *self.sections)
        _, marker = yield from cursor.find(at, marks)
        return marker in (self.separator, *self.section_ends)

    def _call(self, cursor: Cursor, start: int, at: int) -> Reading[tuple[int, Draft]]:
        """The call whose marker or header is at ``at``; its draft has the text from ``start``."""
        ends = (self.call_end, *self.section_ends)
        inner = at + (len(self.call) if cursor.text.startswith(self.call, at) else 0)
        place, marker = yield from cursor.find(inner, (self.separator, *ends, self.call))
        if marker is None or marker != self.separator:
            end = place + (len(self.call_end) if marker == self.call_end else 0)
            reason = "incomplete_output" if marker is None else "malformed_syntax"
            end = max(end, inner)
            return end, reject(cursor.text[start:end], reason, f"{self.separator} is missing")
        value, marker = yield from cursor.find(place + len(marker), ("{", *ends))
        scanned = yield from scan(cursor, value)
        name, identity = self.header(cursor.text[inner:place], cursor.text[place + len(self.separator):value])
        if marker != "{" or scanned.state != "ok":
            end, draft, _ = yield from broken(cursor, start, scanned, value, (self.call_end,),
                                                  "the arguments aren't JSON", (*self.section_ends, self.call))
            draft.name, draft.id = name, identity
            return end, draft
        end = yield from self._end(cursor, scanned.end)
        arguments = arguments_of(decode(cursor.text[value:scanned.end])[1])
        return end, Draft(cursor.text[start:end], name, arguments, identity)

    def _end(self, cursor: Cursor, at: int) -> Reading[int]:
        """Where the call ends whose JSON ends at ``at``: with its closing fence and marker, as far as they come."""
        end = at
        for mark in ("```", self.call_end) if self.fenced else (self.call_end,):
            after = yield from cursor.skip(end)
            if (yield from cursor.starts(after, (mark,))):
                end = after + len(mark)
        return end


def identity_of(text: Any) -> str | None:
    return text.strip() or None if isinstance(text, str) else None
