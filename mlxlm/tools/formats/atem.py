"""ATEM, of Muse: invokes with named parameters in a namespace of its own, inside messages with recipients (Onyx)."""

from __future__ import annotations

import re

from ..calls import Kind, Piece
from ..cursor import Reading
from ..format import Frame
from ..markup import Markup
from ..router import Router
from .minimax_m2 import Tagged

OPENER = "<atem:function_calls>"
START, MESSAGE, ENDS = "<|start|>", "<|message|>", ("<|eom|>", "<|eot|>")
RECIPIENT = re.compile(r"(?<!\S)to=(\S+)")


class OnyxRouter(Router):
    """Reads messages: what is addressed to ``self`` is reasoning; text without any message around it is content."""

    def run(self) -> Reading[None]:
        kind: Kind = "reasoning" if self.inside else "content"
        at = yield from self.cursor.skip(0)
        if not self.inside and (yield from self.cursor.starts(at, ("to=",))):  # the prompt ends in the header
            kind = yield from self._header(at)
        while True:
            at, marker, sure = self.cursor.probe(0, (OPENER, START, MESSAGE, *ENDS))
            if at:
                yield Piece(kind, self.cursor.drop(at))
            if not sure:
                yield None
            elif marker is None:
                return
            elif marker == START:
                kind = yield from self._header(len(START))
            elif marker == OPENER and kind == "reasoning":
                yield Piece(kind, self.cursor.drop(len(OPENER)))
            elif marker == OPENER and self.format:
                frame = yield from self.format.frame(self.cursor, marker)
                yield from self._frame(frame or Frame(len(marker), []))
            else:
                kind = "content"
                yield Piece("marker", self.cursor.drop(len(marker)))

    def _header(self, at: int) -> Reading[Kind]:
        """A header, which may lie in the prompt up to ``at``; what isn't one is content."""
        place, marker = yield from self.cursor.find(at, (MESSAGE, START, OPENER, *ENDS, "\n"))
        header = self.cursor.drop(place + (len(MESSAGE) if marker == MESSAGE else 0))
        if marker != MESSAGE:
            yield Piece("content", header)
            return "content"
        yield Piece("marker", header)
        recipient = RECIPIENT.search(header.removesuffix(MESSAGE))
        return "reasoning" if recipient and recipient[1] == "self" else "content"


class Atem(Tagged):
    name = "atem"
    openers = (OPENER,)
    bodies = ("<atem:invoke",)
    router = OnyxRouter
    tags = Markup(frame=(OPENER, "</atem:function_calls>"), call="<atem:invoke", call_end="</atem:invoke>",
                  argument="<atem:parameter", argument_end="</atem:parameter>")


FORMAT = Atem
