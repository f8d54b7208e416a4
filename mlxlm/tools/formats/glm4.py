"""GLM 4 and Laguna: the name, then a tag for each key and value; JSON in the same frame is taken too."""

from __future__ import annotations

from collections.abc import Sequence

from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame
from ..jsonframe import tagged
from ..markup import Markup


class KeyValue(Format):
    """Keys and values in tags of their own; ``tags`` names them."""

    tags: Markup

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        at = yield from cursor.skip(len(opener))
        if (yield from cursor.starts(at, ("{",))):
            return (yield from tagged(cursor, opener, (self.tags.call_end,)))
        return (yield from self.tags.read(cursor, opener, self.toolbox))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return cls.tags.write(calls)


class Glm4(KeyValue):
    name = "glm4"
    openers = ("<tool_call>",)
    tags = Markup(frame=("<tool_call>", "</tool_call>"), call="", call_end="</tool_call>", argument="<arg_key>",
                  argument_end="</arg_value>", between=("</arg_key>", "<arg_value>"))


FORMAT = Glm4
