"""ATEM, of Muse: invokes with named parameters under names in its own namespace."""

from __future__ import annotations

from ..markup import Markup
from .minimax_m2 import Tagged


class Atem(Tagged):
    name = "atem"
    openers = ("<atem:function_calls>",)
    bodies = ("<atem:invoke",)
    tags = Markup(frame=("<atem:function_calls>", "</atem:function_calls>"), call="<atem:invoke",
                  call_end="</atem:invoke>", argument="<atem:parameter", argument_end="</atem:parameter>")


FORMAT = Atem
