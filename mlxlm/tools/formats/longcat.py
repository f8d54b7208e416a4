"""LongCat: as GLM writes calls, in tags of its own name."""

from __future__ import annotations

from ..markup import Markup
from .glm4 import KeyValue


class LongCat(KeyValue):
    name = "longcat"
    openers = ("<longcat_tool_call>",)
    tags = Markup(frame=("<longcat_tool_call>", "</longcat_tool_call>"), call="", call_end="</longcat_tool_call>",
                  argument="<longcat_arg_key>", argument_end="</longcat_arg_value>",
                  between=("</longcat_arg_key>", "<longcat_arg_value>"))


FORMAT = LongCat
