"""Hermes JSON in <tool_call> tags, OpenAI's envelope in them too, and the same JSON without tags."""

from __future__ import annotations

from collections.abc import Sequence

from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Frame
from ..jsonframe import bare
from ..jsontext import encode
from .qwen3_5 import Framed


class Json(Framed):
    """Qwen 2 to 3, Hermes, SmolLM3, Granite 4."""

    name = "json"
    openers = ("<tool_call>", "{", "[")

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        if opener != "<tool_call>":
            return (yield from bare(cursor, opener))
        return (yield from super().frame(cursor, opener))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        objects = (encode({"name": call.name, "arguments": call.arguments}) for call in calls)
        return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects)


FORMAT = Json
