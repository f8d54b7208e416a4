"""Gemma 4: call:NAME{…} with text between <|"|> marks."""

from __future__ import annotations

from ..braces import Braces


class Gemma4(Braces):
    name = "gemma4"
    openers = ("<|tool_call>",)
    closer = "<tool_call|>"
    quote = '<|"|>'


FORMAT = Gemma4
