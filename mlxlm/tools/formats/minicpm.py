"""MiniCPM 5: functions with named params and nothing around them; CDATA where a value has markup in it."""

from __future__ import annotations

from ..markup import Markup
from .minimax_m2 import Tagged


class MiniCpm(Tagged):
    name = "minicpm"
    openers = ("<function name=",)
    tags = Markup(frame=None, call="<function", call_end="</function>", argument="<param", argument_end="</param>",
                  cdata=True)


FORMAT = MiniCpm
