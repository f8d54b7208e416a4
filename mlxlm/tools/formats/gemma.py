"""FunctionGemma: call:NAME{…} with text between <escape> marks."""

from __future__ import annotations

from ..braces import Braces


class Gemma(Braces):
    name = "gemma"
    openers = ("<start_function_call>",)
    closer = "<end_function_call>"
    quote = "<escape>"


FORMAT = Gemma
