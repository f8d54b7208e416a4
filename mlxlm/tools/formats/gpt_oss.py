"""Harmony, of gpt-oss: all of the text is in messages, whose channels and recipients say what it is.

Control tokens are read as text, as a tokenizer that keeps special tokens writes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..calls import Draft, Kind, Piece, ToolCall
from ..cursor import Cursor, Reading
from ..format import Format, Frame, broken, reject
from ..jsontext import arguments_of, decode, encode, scan
from ..router import Router

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")
BEGINNINGS = (START, CHANNEL)
RECIPIENT = re.compile(r"(?:(?<=[\s>])|^)to=([^\s<]+)")
CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
PEOPLE = ("assistant", "user", "all")
"""Recipients that are no tools."""


class HarmonyRouter(Router):
    """Reads message by message; text outside of messages is content."""

    def run(self) -> Reading[None]:
        if self.inside:
            yield from self._body("reasoning")
        else:
            yield from self._opened()
        while True:
            at, marker, sure = self.cursor.probe(0, (*BEGINNINGS, *ENDS, MESSAGE, CONSTRAIN))
            if at:
                yield Piece("content", self.cursor.drop(at))
            if not sure:
                yield None
            elif marker is None:
                return
            elif marker in BEGINNINGS:
                yield from self._message(marker)
            else:
                yield Piece("marker", self.cursor.drop(len(marker)))

    def _opened(self) -> Reading[None]:
        """The rest of a header that the prompt began: a recipient may stand before the channel."""
        at = yield from self.cursor.skip(0)
        if (yield from self.cursor.starts(at, ("to=",))):
            _, marker = yield from self.cursor.find(at, (MESSAGE, START, *ENDS, "\n"))
            if marker == MESSAGE:
                yield from self._message("")

    def _message(self, opener: str) -> Reading[None]:
        cursor = self.cursor
        place, marker = yield from cursor.find(len(opener), (MESSAGE, START, *ENDS))
        header = cursor.text[:place]
        found = RECIPIENT.search(header)
        recipient = found[1] if found and found[1] not in PEOPLE else None
        if marker != MESSAGE:
            reason = "incomplete_output" if marker is None else "malformed_syntax"
            name = recipient.removeprefix("functions.") if recipient else None
            draft = Draft(header, name, reason=reason, detail="a message without a body")
            yield from self._frame(Frame(place, [draft]))
        elif recipient:
            yield from self._frame((yield from self._call(place + len(MESSAGE), recipient.removeprefix("functions."))))
        else:
            channel = CHANNEL_NAME.search(header)
            yield Piece("marker", cursor.drop(place + len(MESSAGE)))
            yield from self._body("reasoning" if channel and channel[1] == "analysis" else "content")

    def _body(self, kind: Kind) -> Reading[None]:
        self.thinking = kind == "reasoning"
        while True:
            at, marker, sure = self.cursor.probe(0, (*BEGINNINGS, *ENDS))
            if at:
                yield Piece(kind, self.cursor.drop(at))
            if not sure:
                yield None
                continue
            self.thinking = False
            if marker in ENDS:
                yield Piece("marker", self.cursor.drop(len(marker)))
            return

    def _call(self, start: int, name: str) -> Reading[Frame]:
        """The call whose arguments are the body from ``start``; control text in its JSON's strings is data."""
        cursor = self.cursor
        at = yield from cursor.skip(start)
        scanned = yield from scan(cursor, at)
        after = yield from cursor.skip(scanned.end)
        mark = yield from cursor.starts(after, (*ENDS, *BEGINNINGS))
        if scanned.state != "ok" or (mark is None and after < len(cursor.text)):
            end, draft, _ = yield from broken(cursor, 0, scanned, at, ENDS, "not JSON alone", BEGINNINGS)
            draft.name = name
            return Frame(end, [draft])
        end = after + len(mark) if mark in ENDS else after
        arguments = arguments_of(decode(cursor.text[at:scanned.end])[1])
        return Frame(end, [Draft(cursor.text[:end], name, arguments)])


class GptOss(Format):
    name = "gpt_oss"
    openers = BEGINNINGS
    router = HarmonyRouter
    controls = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)

    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        """Never asked: the router reads messages, of which calls are one kind."""
        yield from ()
        return Frame(len(opener), [reject(opener)])

    @classmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        return f"{START}assistant".join(
            f"{CHANNEL}commentary to=functions.{call.name} {CONSTRAIN}json{MESSAGE}{encode(call.arguments)}{ENDS[2]}"
            for call in calls)


FORMAT = GptOss
