"""Qwen 3.5: <tool_call> tags around either tags for each argument or a JSON object."""

from __future__ import annotations

from collections.abc import Sequence

from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame
from ..jsonframe import tagged
from ..markup import Markup

TAGS = Markup(frame=("<tool_call>", "</tool_call>"), call="<function=", call_end="</function>",
              argument="<parameter=", argument_end="</parameter>", attributes=False, newlines=1, layout="\n")


class Framed(Format):
    """Both dialects of <tool_call>; a <function=…> outside of one is taken too, if it is among the openers."""

    openers = ("<tool_call>",)
    bodies = ("{", "[", "<function=")

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        if opener == "<tool_call>":
            at = yield from cursor.skip(len(opener))
            if (yield from cursor.starts(at, ("<function=",))) is None:
                return (yield from tagged(cursor, opener, ("</tool_call>",)))
        return (yield from TAGS.read(cursor, opener, self.toolbox))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return TAGS.write(calls)


class Qwen35(Framed):
    name = "qwen3_5"
    openers = ("<tool_call>", "<function=")


FORMAT = Qwen35
