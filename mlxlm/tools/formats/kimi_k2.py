"""Kimi K2: a section of calls whose ids, functions.NAME:INDEX, hold their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..calls import ToolCall
from ..jsontext import encode
from ..sections import Sections, identity_of

IDENTITY = re.compile(r"(?:functions\.)?(.*?)(?::\d+)?", re.DOTALL)


class KimiK2(Sections):
    name = "kimi_k2"
    sections = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")
    section_ends = ("<|tool_calls_section_end|>", "<|tool_call_section_end|>")
    call, call_end = "<|tool_call_begin|>", "<|tool_call_end|>"
    separator = "<|tool_call_argument_begin|>"
    openers = (*sections, call)

    @classmethod
    def header(cls, before: str, after: str) -> tuple[str | None, str | None]:
        identity = identity_of(before)
        match = IDENTITY.fullmatch(identity or "")
        return (match[1] or None) if match else None, identity

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        written = [f"{cls.call}{cls._identity(call, index)}{cls.separator}{encode(call.arguments)}{cls.call_end}"
                   for index, call in enumerate(calls)]
        return cls.sections[0] + "".join(written) + cls.section_ends[0]

    @classmethod
    def _identity(cls, call: ToolCall, index: int) -> str:
        """The call's own id, if it holds the call's name as the model would write it."""
        fits = re.fullmatch(rf"(?:functions\.)?{re.escape(call.name)}:\d+", call.id)
        return call.id if fits else f"functions.{call.name}:{index}"


FORMAT = KimiK2
