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

    recipient: str | None = None

    def run(self) -> Reading[None]:
        kind: Kind = "reasoning" if self.inside else "content"
        at = yield from self.cursor.skip(0)
        if not self.inside and (yield from self.cursor.starts(at, ("to=",))):  # the prompt ends in the header
            kind = yield from self._header(at)
        while True:
            self.thinking = kind == "reasoning"
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
                yield from self._frame(self._addressed(frame or Frame(len(marker), [])))
            else:
                kind, self.recipient = "content", None
                yield Piece("marker", self.cursor.drop(len(marker)))

    def _header(self, at: int) -> Reading[Kind]:
        """A header, which may lie in the prompt up to ``at``; what isn't one is content."""
        place, marker = yield from self.cursor.find(at, (MESSAGE, START, OPENER, *ENDS, "\n"))
        header = self.cursor.drop(place + (len(MESSAGE) if marker == MESSAGE else 0))
        if marker != MESSAGE:
            yield Piece("content", header)
            return "content"
        yield Piece("marker", header)
        found = RECIPIENT.search(header.removesuffix(MESSAGE))
        self.recipient = found[1] if found else None
        return "reasoning" if self.recipient == "self" else "content"

    def _addressed(self, frame: Frame) -> Frame:
        """The frame without its calls of another tool than the message is addressed to."""
        for draft in frame.drafts:
            if self.recipient not in (None, "user", draft.name) and draft.reason is None:
                draft.reason, draft.detail = "malformed_syntax", f"the message is addressed to {self.recipient}"
        return frame


class Atem(Tagged):
    name = "atem"
    openers = (OPENER,)
    bodies = ("<atem:invoke",)
    router = OnyxRouter
    controls = (START, MESSAGE, *ENDS)
    strict = True
    tags = Markup(frame=(OPENER, "</atem:function_calls>"), call="<atem:invoke", call_end="</atem:invoke>",
                  argument="<atem:parameter", argument_end="</atem:parameter>", once=True)


FORMAT = Atem
