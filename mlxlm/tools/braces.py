"""Gemma's calls: call:NAME{key:value}, with bare keys and a marker of its own for quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from .calls import Draft, ToolCall
from .cursor import Cursor, Reading
from .format import Format, Frame, attach, reject
from .jsontext import encode
from .literals import Literals, NotALiteral
from .schema import settle

NAME = re.compile(r"[^\s{}:,]+")
PLAIN_KEY = re.compile(r"[A-Za-z_][\w.-]*")


class Braces(Format):
    """``openers`` has one marker; ``closer`` ends the frame, and ``quote`` is on both sides of text."""

    closer: ClassVar[str]
    quote: ClassVar[str]
    bodies = ("call:",)

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        place, marker = yield from self._end(cursor, opener)
        end = place + (len(self.closer) if marker == self.closer else 0)
        return Frame(end, self._calls(cursor.text[:end], len(opener), place, marker))

    def _end(self, cursor: Cursor, opener: str) -> Reading[tuple[int, str | None]]:
        """The closer, or the next opener, outside of quotes; the first closer at all if a quote is left open."""
        at = len(opener)
        while True:
            place, marker = yield from cursor.find(at, (self.quote, self.closer, opener))
            if marker != self.quote:
                return place, marker
            inner = place + len(self.quote)
            at, closing = yield from cursor.find(inner, (self.quote,))
            if closing is None:
                found = cursor.text.find(self.closer, inner)
                return (len(cursor.text), None) if found < 0 else (found, self.closer)
            at += len(self.quote)

    def _calls(self, text: str, start: int, end: int, marker: str | None) -> list[Draft]:
        reader = Literals(text[:end], self.quote)
        reader.at = start
        found: list[Draft] = []
        done, name = 0, None
        try:
            while reader.skip():
                if found and reader.take(","):
                    continue
                name = None
                reader.need("call:")
                name = reader.match(NAME)
                arguments = settle(reader.dict(0), schema := self.toolbox.schema(name), schema or {})
                found.append(Draft(text[done:reader.at], name, arguments))
                done = reader.at
        except NotALiteral as error:
            reason = "incomplete_output" if marker is None else "malformed_syntax"
            return [*found, Draft(text[done:], name, reason=reason, detail=str(error))]
        if not found:
            return [reject(text, "malformed_syntax" if marker else "incomplete_output", "there is no call in it")]
        attach(found, text[done:])
        return found

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return "".join(f"{cls.openers[0]}call:{call.name}{cls._value(call.arguments)}{cls.closer}" for call in calls)

    @classmethod
    def _value(cls, value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{cls._key(key)}:{cls._value(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(cls._value, value)) + "]"
        return f"{cls.quote}{value}{cls.quote}" if isinstance(value, str) else encode(value)

    @classmethod
    def _key(cls, key: str) -> str:
        return key if PLAIN_KEY.fullmatch(key) else f"{cls.quote}{key}{cls.quote}"
