"""The two ways in: a whole text at once, and a stream of its parts; both give the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlxlm.errors import UsageError

from .calls import NewId, ParsedOutput, Piece
from .cursor import Cursor, Reading
from .formats import find
from .reasoning import ReasoningProtocol
from .router import Router
from .schema import Toolbox


class ToolStream:
    """Takes a model's text as it arrives and tells apart content, reasoning and tool calls.

    ``format`` names a wire format (None: no calls are looked for); ``tools`` are the tools that were offered (None:
    unknown, so any name passes and arguments are typed by the wire alone); ``reasoning`` says how reasoning is
    marked, and ``inside`` that the prompt ends within it. ``new_id`` makes ids for calls that come without one.
    UsageError for an unknown format or a tool without a name. The result depends on the text alone, never on how it
    was cut into pieces.
    """

    def __init__(self, format: str | None = None, tools: Iterable[Any] | None = None, *,
                 reasoning: ReasoningProtocol | None = None, inside: bool = False, new_id: NewId | None = None):
        self._cursor = Cursor()
        made = find(format)(Toolbox(tools)) if format is not None else None
        make = made.router if made is not None and made.router is not None else Router
        self._steps: Reading[None] = make(self._cursor, made, reasoning, inside, new_id).run()
        self._pieces: list[Piece] = []
        self._output: ParsedOutput | None = None
        self.tail: list[Piece] = []
        """What ``finish`` let go of: the events that ``feed`` still held back."""

    def feed(self, text: str) -> list[Piece]:
        """Takes more text; returns what has become certain. UsageError after ``finish``."""
        if self._output is not None:
            raise UsageError("the text has been finished; a new text needs a new ToolStream", where="feed")
        if not isinstance(text, str):
            raise UsageError("the model's output must be text", where="feed", found=type(text).__name__)
        if not text:
            return []
        self._cursor.push(text)
        return self._advance()

    def finish(self) -> ParsedOutput:
        """Ends the text; returns all of it, taken apart. What ``feed`` had held back is in ``tail`` now."""
        if self._output is None:
            self._cursor.finished = True
            self.tail = self._advance()
            self._output = ParsedOutput.of(self._pieces)
        return self._output

    def _advance(self) -> list[Piece]:
        new: list[Piece] = []
        for piece in self._steps:
            if piece is not None:
                new.append(piece)
            elif not self._cursor.admit():
                break
        self._pieces += new
        return new


def parse(text: str, format: str | None = None, tools: Iterable[Any] | None = None, *,
          reasoning: ReasoningProtocol | None = None, inside: bool = False,
          new_id: NewId | None = None) -> ParsedOutput:
    """A whole text taken apart: the same as a ToolStream fed with it. The arguments are ToolStream's."""
    stream = ToolStream(format, tools, reasoning=reasoning, inside=inside, new_id=new_id)
    stream.feed(text)
    return stream.finish()
