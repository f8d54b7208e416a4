"""LFM2: Python calls, in a list or not, between its own tags; JSON calls between them are taken too."""

from __future__ import annotations

from collections.abc import Sequence

from .. import jsonframe, pythoncalls
from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame

OPENER, CLOSER = "<|tool_call_start|>", "<|tool_call_end|>"


class Lfm2(Format):
    name = "lfm2"
    openers = (OPENER,)

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        at = yield from cursor.skip(len(opener))
        if (yield from cursor.starts(at, ("[",))):
            at = yield from cursor.skip(at + 1)
        if (yield from cursor.starts(at, ("{",))):
            return (yield from jsonframe.tagged(cursor, opener, (CLOSER,)))
        return (yield from pythoncalls.tagged(cursor, opener, (CLOSER,), self.toolbox))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return OPENER + pythoncalls.write(calls) + CLOSER


FORMAT = Lfm2
