"""MiniMax M2: invokes with named parameters, several in a block."""

from __future__ import annotations

from collections.abc import Sequence

from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame
from ..markup import Markup


class Tagged(Format):
    """A format that is its tags and no more."""

    tags: Markup

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        return (yield from self.tags.read(cursor, opener, self.toolbox))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return cls.tags.write(calls)


class MiniMaxM2(Tagged):
    name = "minimax_m2"
    openers = ("<minimax:tool_call>",)
    bodies = ("<invoke",)
    tags = Markup(frame=("<minimax:tool_call>", "</minimax:tool_call>"), call="<invoke", call_end="</invoke>",
                  argument="<parameter", argument_end="</parameter>")


FORMAT = MiniMaxM2
