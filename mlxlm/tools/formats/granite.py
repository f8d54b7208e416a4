"""Granite 3 and Phi 4: a list of JSON calls behind <|tool_call|> or <tool_call> (Granite 3.1), most with no end."""

from __future__ import annotations

from collections.abc import Sequence

from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame
from ..jsonframe import tagged
from ..jsontext import encode


class Granite(Format):
    name = "granite"
    openers = ("<|tool_call|>", "<tool_call>")
    bodies = ("[", "{")

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        return (yield from tagged(cursor, opener, ("</tool_call>", "<|/tool_call|>"), must_close=False))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return "<|tool_call|>" + encode([{"name": call.name, "arguments": call.arguments} for call in calls])


FORMAT = Granite
