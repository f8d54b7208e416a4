"""DeepSeek: V3 and R1 with fenced JSON, V3.1 with JSON alone, V3.2 with tags that say what is text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..calls import ToolCall
from ..cursor import Cursor, Reading
from ..format import Frame
from ..jsontext import encode
from ..markup import Markup
from ..sections import Sections, identity_of

FENCE = re.compile(r"\s*```(?:json)?\s*")
V32 = Markup(frame=("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"), call="<｜DSML｜invoke",
             call_end="</｜DSML｜invoke>", argument="<｜DSML｜parameter", argument_end="</｜DSML｜parameter>",
             kind_attribute="string")


class DeepSeek(Sections):
    """Reads all three generations; writes V3.1's form."""

    name = "deepseek"
    sections = ("<｜tool▁calls▁begin｜>",)
    section_ends = ("<｜tool▁calls▁end｜>",)
    call, call_end = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
    separator = "<｜tool▁sep｜>"
    fenced = True
    openers = (*sections, call, V32.frame[0] if V32.frame else "")

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        if V32.frame and opener == V32.frame[0]:
            return (yield from V32.read(cursor, opener, self.toolbox))
        return (yield from super().frame(cursor, opener))

    @classmethod
    def header(cls, before: str, after: str) -> tuple[str | None, str | None]:
        """V3 has the kind before the separator and the name after it; V3.1 the name before it."""
        named = identity_of(FENCE.sub("", after, count=1))
        return named or identity_of(before), None

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        written = [f"{cls.call}{call.name}{cls.separator}{encode(call.arguments)}{cls.call_end}" for call in calls]
        return cls.sections[0] + "".join(written) + cls.section_ends[0]


def write_v3(calls: Sequence[ToolCall]) -> str:
    """The calls as DeepSeek V3 and R1 write them."""
    one = DeepSeek
    written = [f"{one.call}function{one.separator}{call.name}\n```json\n{encode(call.arguments)}\n```{one.call_end}"
               for call in calls]
    return one.sections[0] + "\n".join(written) + one.section_ends[0]


def write_v32(calls: Sequence[ToolCall]) -> str:
    """The calls as DeepSeek V3.2 writes them."""
    return V32.write(calls)


FORMAT = DeepSeek
