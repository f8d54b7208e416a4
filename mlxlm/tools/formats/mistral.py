"""Mistral: names with [ARGS] and perhaps a [CALL_ID], or the older list of JSON calls; nothing marks the end."""

from __future__ import annotations

from collections.abc import Sequence

from ..calls import Draft, ToolCall, short_id
from ..cursor import Cursor, Reading
from ..format import Format, Frame, broken, reject
from ..jsonframe import tagged
from ..jsontext import arguments_of, decode, encode, scan

ID, ARGS = "[CALL_ID]", "[ARGS]"


class Mistral(Format):
    name = "mistral"
    openers = ("[TOOL_CALLS]",)

    @staticmethod
    def new_id() -> str:
        return short_id()

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        at = yield from cursor.skip(len(opener))
        if (yield from cursor.starts(at, (ID, ARGS, "[", "{"))) in ("[", "{"):
            return (yield from tagged(cursor, opener, (), must_close=False))
        place, marker = yield from cursor.find(at, (ID, ARGS, "{", opener))
        name, identity = cursor.text[at:place].strip(), None
        if marker == ID:
            start = place + len(ID)
            place, marker = yield from cursor.find(start, (ARGS, "{", opener))
            identity = cursor.text[start:place].strip() or None
        if marker is None or marker == opener:
            reason = "incomplete_output" if marker is None else "malformed_syntax"
            return Frame(place, [reject(cursor.text[:place], reason, "the arguments are missing")])
        at = place + (len(ARGS) if marker == ARGS else 0)
        scanned = yield from scan(cursor, at)
        if scanned.state != "ok":
            end, draft, _ = yield from broken(cursor, 0, scanned, at, (), "the arguments aren't JSON", (opener,))
            draft.name, draft.id = name or None, identity
            return Frame(end, [draft])
        arguments = arguments_of(decode(cursor.text[at:scanned.end])[1])
        return Frame(scanned.end, [Draft(cursor.text[:scanned.end], name, arguments, identity)])

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return "".join(f"{cls.openers[0]}{call.name}{ID + call.id if call.id else ''}{ARGS}{encode(call.arguments)}"
                       for call in calls)


def write_list(calls: Sequence[ToolCall]) -> str:
    """The calls as the first generation writes them: one list."""
    objects = [{"name": call.name, "arguments": call.arguments} | ({"id": call.id} if call.id else {})
               for call in calls]
    return f"[TOOL_CALLS] {encode(objects)}"


FORMAT = Mistral
