"""Llama 3: JSON with name and parameters, behind <|python_tag|> or bare; <function=NAME>{…}</function> as well."""

from __future__ import annotations

from collections.abc import Sequence

from .. import jsonframe, pythoncalls
from ..calls import Draft, ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame, broken
from ..jsontext import arguments_of, decode, encode, scan

TAG, FUNCTION, CLOSER = "<|python_tag|>", "<function=", "</function>"
ENDS = ("<|eom_id|>", "<|eot_id|>")


class Llama3(Format):
    name = "llama3"
    openers = (TAG, FUNCTION, "{", "[")

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        if opener in ("{", "["):
            return (yield from jsonframe.bare(cursor, opener))
        if opener == FUNCTION:
            return (yield from self._function(cursor))
        at = yield from cursor.skip(len(opener))
        if (yield from cursor.starts(at, ("[",))):
            at = yield from cursor.skip(at + 1)
        if (yield from cursor.starts(at, ("{",))):
            return (yield from jsonframe.tagged(cursor, opener, ENDS, must_close=False))
        return (yield from pythoncalls.tagged(cursor, opener, ENDS, self.toolbox))

    @staticmethod
    def _function(cursor: Cursor) -> Reading[Frame | None]:
        start = len(FUNCTION)
        place, marker = yield from cursor.find(start, (">", "\n", "<"))
        name = cursor.text[start:place].strip()
        if marker != ">" or not name:
            return None
        at = yield from cursor.skip(place + 1)
        scanned = yield from scan(cursor, at)
        after = yield from cursor.skip(scanned.end)
        closed = yield from cursor.starts(after, (CLOSER,))
        if scanned.state == "ok" and (closed or after == len(cursor.text)):
            end = after + len(closed or "")
            return Frame(end, [Draft(cursor.text[:end], name, arguments_of(decode(cursor.text[at:scanned.end])[1]))])
        end, draft, _ = yield from broken(cursor, 0, scanned, at, (CLOSER,), "not JSON alone between the tags")
        draft.name = name
        return Frame(end, [draft])

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return TAG + "; ".join(encode({"name": call.name, "parameters": call.arguments}) for call in calls)


FORMAT = Llama3
