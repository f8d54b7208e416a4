"""The router: sends each character of a model's text to content, reasoning, a call or a rejected call."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Draft, NewId, Piece, RejectedCall, ToolCall
from .cursor import Cursor, Reading
from .format import Format, Frame
from .reasoning import ReasoningProtocol
from .schema import Toolbox
from .validate import problem

MOST_FALSE_ENDS = 8
"""After so many marks of a call inside reasoning that weren't one, reasoning is left by its end marker alone."""


class Router:
    """Reads content, reasoning and frames in turn; formats with messages of their own replace ``run``."""

    def __init__(self, cursor: Cursor, format: Format | None, reasoning: ReasoningProtocol | None, inside: bool,
                 new_id: NewId | None):
        self.cursor, self.format, self.protocol = cursor, format, reasoning
        self.inside = inside
        self.thinking = inside  # whether what comes next is reasoning
        self.new_id: NewId | None = new_id or (format.new_id if format else None)
        self.ids: set[str] = set()
        self.fresh = True  # no answer has begun: reasoning may
        self.false_ends = 0

    def run(self) -> Reading[None]:
        self.thinking = False
        if self.inside and self.protocol is not None:
            self.thinking = True
            yield from self._newlines(0, self.protocol.inner_newlines)
            yield from self._reason(self.protocol)
        openers = self.format.openers if self.format else ()
        while True:
            start = (self.protocol.start,) if self.protocol and self.fresh else ()
            at, marker, sure = self.cursor.probe(0, openers + start)
            if at:
                text = self.cursor.drop(at)
                self.fresh = self.fresh and not text.strip()
                yield Piece("content", text)
            if not sure:
                yield None
            elif marker is None:
                return
            elif self.protocol and (marker,) == start:
                if self.fresh:
                    self.thinking = True
                    yield from self._newlines(len(marker), self.protocol.inner_newlines)
                    yield from self._reason(self.protocol)
            elif self.format:
                frame = yield from self.format.frame(self.cursor, marker)
                yield from self._frame(frame or Frame(len(marker), []))

    def _newlines(self, at: int, most: int) -> Reading[None]:
        """A marker of reasoning up to ``at``, with the newlines that belong to it."""
        end = at
        while end < at + most and (yield from self.cursor.starts(end, ("\n",))):
            end += 1
        if end:
            yield Piece("marker", self.cursor.drop(end))

    def _reason(self, protocol: ReasoningProtocol) -> Reading[None]:
        """Reasoning up to its end: the marker, or a call that ends it."""
        ends = tuple("\n" * count + end for end in protocol.ends for count in range(protocol.inner_newlines + 1))
        implicit = tuple(set(protocol.implicit_ends) & set(self.format.openers)) if self.format else ()
        while True:
            if self.false_ends >= MOST_FALSE_ENDS:
                implicit = ()
            at, marker, sure = self.cursor.probe(0, ends + implicit)
            if at:
                yield Piece("reasoning", self.cursor.drop(at))
            if not sure:
                yield None
            elif marker is None:
                return
            elif marker in ends:
                self.thinking = False
                yield from self._newlines(len(marker), protocol.outer_newlines)
                return
            elif (yield from self._implicit(marker)):
                self.thinking = False
                return
            else:
                yield Piece("reasoning", self.cursor.drop(len(marker)))

    def _implicit(self, marker: str) -> Reading[bool]:
        """Whether a call stands at the marker; then it has been given out."""
        if self.format is None:
            return False
        if self.format.bodies:
            at = yield from self.cursor.skip(len(marker))
            if (yield from self.cursor.starts(at, self.format.bodies)) is None:
                return False
        frame = yield from self._tentative(self.format.frame(self.cursor, marker))
        if frame is None or not any(draft.reason is None and draft.name for draft in frame.drafts):
            self.false_ends += 1
            return False
        yield from self._frame(frame)
        return True

    @staticmethod
    def _tentative(steps: Reading[Frame | None]) -> Reading[Frame | None]:
        """The frame, or None as soon as its reader shows a part of it as content: then it holds no call."""
        while True:
            try:
                piece = next(steps)
            except StopIteration as stop:
                return stop.value
            if piece is not None:
                return None
            yield None

    def _frame(self, frame: Frame) -> Iterator[Piece]:
        text = self.cursor.drop(frame.end)
        if frame.drafts:
            yield from map(self.judge, frame.drafts)
            self.fresh = True
            return
        self.fresh = False
        if frame.shown < len(text):
            yield Piece("content", text[frame.shown:])

    def judge(self, draft: Draft) -> Piece:
        """The call, or why it is none: its syntax, its name, or its arguments."""
        toolbox = self.format.toolbox if self.format else Toolbox()
        reason, detail = draft.reason, draft.detail
        if reason is None and not draft.name:
            reason, detail = "missing_tool_name", "the call has no name"
        elif reason is None and not toolbox.declares(draft.name or ""):
            reason, detail = "undeclared_tool", "no tool of that name was offered"
        elif reason is None and not isinstance(draft.arguments, dict):
            reason, detail = "invalid_arguments", "the arguments aren't an object"
        elif reason is None and self.format and self.format.strict:
            schema = toolbox.schema(draft.name) or {}
            found = problem(draft.arguments, schema, schema)
            reason, detail = ("invalid_arguments", found) if found else (None, "")
        if reason is not None:
            rejected = RejectedCall(draft.raw, reason, draft.name, draft.id, detail, draft.arguments)
            return Piece("rejected", draft.raw, rejected=rejected)
        call = ToolCall(draft.name or "", draft.arguments, self._id(draft.id), draft.raw)
        return Piece("call", draft.raw, call)

    def _id(self, supplied: str | None) -> str:
        chosen = supplied
        while not chosen or chosen in self.ids:
            chosen = self.new_id() if self.new_id else ""
        self.ids.add(chosen)
        return chosen
