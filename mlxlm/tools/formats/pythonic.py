"""Llama 4 and OLMo 3: Python calls in a bare list, or on lines of their own in a frame."""

from __future__ import annotations

from collections.abc import Sequence

from .. import pythoncalls
from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame

CLOSERS = {"<|python_start|>": "<|python_end|>", "<function_calls>": "</function_calls>",
           "<|tool_call_start|>": "<|tool_call_end|>"}


class Pythonic(Format):
    name = "pythonic"
    openers = (*CLOSERS, "[")

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        if opener == "[":
            return (yield from pythoncalls.untagged(cursor, self.toolbox))
        return (yield from pythoncalls.tagged(cursor, opener, (CLOSERS[opener],), self.toolbox))

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return pythoncalls.write(calls)


FORMAT = Pythonic
