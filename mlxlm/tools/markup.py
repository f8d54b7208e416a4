"""Calls in tags, one for each argument: one reader and writer for all families that write them so.

A value ends at its closing tag only where the grammar goes on behind it, so that the tag may stand in the value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .calls import Draft, ToolCall
from .cursor import Cursor, Reading
from .format import Frame, attach, reject
from .jsontext import decode, encode
from .literals import read_literal
from .schema import Toolbox, typed

ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)

BROKEN = -2
"""Instead of a position: this isn't an argument."""


@dataclass(frozen=True)
class Markup:
    """The tags of a family.

    ``frame`` is the pair around all calls (None: a call stands alone); ``call`` and ``argument`` are the beginnings of
    their tags, up to the name, ``*_end`` what closes them, and ``head`` what ends the name. With ``attributes`` the
    name is an attribute called name. With ``between`` (the closing tag of the key, the opening one of the value) each
    argument has two tags. Without ``call`` the name stands behind the frame's opener, up to an argument or the closer.
    ``kind_attribute`` says in a tag whether the value is text. ``newlines`` are taken off each end of a value.
    """

    frame: tuple[str, str] | None
    call: str
    call_end: str
    argument: str
    argument_end: str
    head: str = ">"
    attributes: bool = True
    between: tuple[str, str] | None = None
    kind_attribute: str | None = None
    newlines: int = 0
    cdata: bool = False
    layout: str = ""  # what is written between tags
    once: bool = False  # a parameter that comes twice spoils the call

    def read(self, cursor: Cursor, opener: str, toolbox: Toolbox) -> Reading[Frame | None]:
        """All calls of the frame that begins with ``opener``: the frame's, or a call's own."""
        if self.frame is None or opener != self.frame[0]:
            return (yield from self._alone(cursor, toolbox))
        found: list[Draft] = []
        start, at = 0, 0 if not self.call else len(opener)
        while True:
            at = yield from cursor.skip(at)
            mark = yield from cursor.starts(at, (self.call or opener, self.frame[1], opener))
            if mark == (self.call or opener) and (self.call or not found):
                at, draft = yield from self._call(cursor, at, start, toolbox)
                found.append(draft)
                start = at
                if not self.call:
                    return Frame(at, found)
            elif mark == self.frame[1] or (mark is None and at == len(cursor.text)):
                return self._closed(cursor, start, at + len(mark or ""), found, mark is not None)
            else:
                place, marker = yield from cursor.find(at, (self.frame[1], opener))
                end = place + (len(self.frame[1]) if marker == self.frame[1] else 0)
                reason = "incomplete_output" if marker is None else "malformed_syntax"
                return Frame(end, [*found, reject(cursor.text[start:end], reason, "no call where one was due")])

    @staticmethod
    def _closed(cursor: Cursor, start: int, end: int, found: list[Draft], marked: bool) -> Frame:
        if not found:
            found = [reject("", "malformed_syntax" if marked else "incomplete_output", "there is no call in it")]
        attach(found, cursor.text[start:end])
        return Frame(end, found)

    def _alone(self, cursor: Cursor, toolbox: Toolbox) -> Reading[Frame | None]:
        """A call without a frame; None if its tag names nothing, or no call follows it, as in prose."""
        place, marker = yield from cursor.find(len(self.call), (self.head, "\n", "<"))
        if marker is None or marker != self.head or not self._name(cursor.text[len(self.call):place]):
            return None
        at = yield from cursor.skip(place + len(marker))
        follows = yield from cursor.starts(at, (self.argument, self.call_end))
        if not follows and not any(mark.startswith(cursor.text[at:]) for mark in (self.argument, self.call_end)):
            return None
        end, draft = yield from self._call(cursor, 0, 0, toolbox)
        if self.frame is not None:  # the closer of a frame that was never opened
            after = yield from cursor.skip(end)
            if (yield from cursor.starts(after, (self.frame[1],))):
                draft.raw += cursor.text[end:after + len(self.frame[1])]
                end = after + len(self.frame[1])
        return Frame(end, [draft])

    def _call(self, cursor: Cursor, at: int, start: int, toolbox: Toolbox) -> Reading[tuple[int, Draft]]:
        """One call from ``at``: where it ends, and its draft with the text from ``start``."""
        if self.call:
            place, marker = yield from cursor.find(at + len(self.call), (self.head,))
            inner = place + len(self.head)
            name = self._name(cursor.text[at + len(self.call):place])
        else:
            at += len(self.frame[0]) if self.frame else 0
            place, marker = yield from cursor.find(at, (self.argument, self.call_end))
            inner, name = place, cursor.text[at:place].strip()
        if marker is None:
            return place, reject(cursor.text[start:], "incomplete_output", "the tag of the call was cut")
        arguments: dict[str, Any] = {}
        while True:
            inner = yield from cursor.skip(inner)
            mark = yield from cursor.starts(inner, (self.argument, self.call_end))
            if mark is not None and mark == self.call_end:
                end = inner + len(mark)
                if not self.call and ("<" in name or "\n" in name):
                    return end, reject(cursor.text[start:end], detail="the name isn't a name")
                return end, Draft(cursor.text[start:end], name, arguments)
            if mark is None:
                return (yield from self._spoilt(cursor, start, inner, name))
            before, inner = inner, (yield from self._argument(cursor, inner, name, arguments, toolbox))
            if inner == BROKEN:
                return (yield from self._spoilt(cursor, start, before, name))
            if inner < 0:
                text = cursor.text[start:]
                return len(cursor.text), Draft(text, name, reason="incomplete_output", detail="an argument was cut")

    def _spoilt(self, cursor: Cursor, start: int, at: int, name: str) -> Reading[tuple[int, Draft]]:
        place, marker = yield from cursor.find(at, (self.call_end,))
        end = place + len(marker or "")
        reason = "malformed_syntax" if marker else "incomplete_output"
        return end, Draft(cursor.text[start:end], name, reason=reason, detail="text where an argument was due")

    def _argument(self, cursor: Cursor, at: int, name: str, arguments: dict[str, Any],
                  toolbox: Toolbox) -> Reading[int]:
        """Reads the argument at ``at`` into ``arguments``; returns its end, -1 if the text is cut, or BROKEN."""
        closing = self.between[0] if self.between else self.head
        place, marker = yield from cursor.find(at + len(self.argument), (closing,))
        if marker is None:
            return -1
        head, inner = cursor.text[at + len(self.argument):place], place + len(closing)
        if self.between:
            place, marker = yield from cursor.find(inner, (self.between[1],))
            if marker is None:
                return -1
            inner = place + len(marker)
        found = yield from self._value_end(cursor, inner)
        if found is None:
            return -1
        key = head.strip() if self.between else self._name(head)
        if self.once and key in arguments:
            return BROKEN
        arguments[key] = self._value(cursor.text[inner:found], head, name, key, toolbox)
        return found + len(self.argument_end)

    def _value_end(self, cursor: Cursor, at: int) -> Reading[int | None]:
        while True:
            place, marker = yield from cursor.find(at, (self.argument_end,))
            if marker is None:
                return None
            after = yield from cursor.skip(place + len(marker))
            follows = yield from cursor.starts(after, (self.argument, self.call_end))
            if follows or after == len(cursor.text):
                return place
            at = place + len(marker)

    def _value(self, text: str, head: str, name: str, key: str, toolbox: Toolbox) -> Any:
        if self.cdata and (match := CDATA.fullmatch(text)):
            text = match[1]
        for _ in range(self.newlines):
            text = text.removeprefix("\n").removesuffix("\n")
        if self.kind_attribute and (kind := dict(ATTRIBUTE.findall(head)).get(self.kind_attribute)):
            fine, value = decode(text) if kind.strip("\"'") == "false" else (False, None)
            return value if fine else text
        schema, root = toolbox.parameter(name, key)
        return text if schema is None else typed(text, schema, root, read_literal)

    def _name(self, head: str) -> str:
        if not self.attributes:
            return head.strip()
        found = next((value for key, value in ATTRIBUTE.findall(head) if key == "name"), "")
        return found[1:-1] if found[:1] in ("'", '"') else found

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The calls in tags; text as it is, other values as JSON."""
        written = [self._write_call(call) for call in calls]
        if self.frame is None:
            return "\n".join(written)
        opener, closer = self.frame
        if not self.call or self.layout == "\n":
            gap = self.layout if self.call else ""
            return "\n".join(f"{opener}{gap}{one}{gap}{closer}" for one in written)
        return f"{opener}\n" + "\n".join(written) + f"\n{closer}"

    def _write_call(self, call: ToolCall) -> str:
        lines = [f"{self.call}{self._head(call.name)}{self.head}" if self.call else call.name]
        lines += [self._write_argument(key, value) for key, value in call.arguments.items()]
        if self.call:
            return "\n".join([*lines, self.call_end])
        return "\n".join([*lines, ""] if len(lines) > 1 else lines)

    def _write_argument(self, key: str, value: Any) -> str:
        text = value if isinstance(value, str) else encode(value)
        if self.cdata and (any(char in text for char in "<&\n") or CDATA.fullmatch(text)):
            text = f"<![CDATA[{text}]]>"
        text = self.layout + text + self.layout if self.newlines else text
        if self.between:
            return f"{self.argument}{key}{self.between[0]}\n{self.between[1]}{text}{self.argument_end}"
        kind = f' {self.kind_attribute}="{str(isinstance(value, str)).lower()}"' if self.kind_attribute else ""
        return f"{self.argument}{self._head(key)}{kind}{self.head}{text}{self.argument_end}"

    def _head(self, name: str) -> str:
        return f' name="{name}"' if self.attributes else name
