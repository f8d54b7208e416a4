"""The two ways in: a whole text (or its token ids) at once, and a stream of its parts; both give the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlxlm.errors import UsageError

from .calls import NewId, ParsedOutput, Piece
from .cursor import Cursor, Reading
from .formats import find
from .functions import tool_schemas
from .reasoning import ReasoningProtocol
from .router import Router
from .schema import Toolbox
from .tokens import ControlTokens, mark, unmarked


class ToolStream:
    """Takes a model's text as it arrives and tells apart content, reasoning and tool calls.

    ``format`` names a wire format (None: no calls are looked for); ``tools`` are the tools that were offered (None:
    unknown, so any name passes and arguments are typed by the wire alone): schemas, functions or pydantic models;
    ``reasoning`` says how reasoning is marked, and ``inside`` that the prompt ends within it. ``new_id`` makes ids
    for calls that come without one. With a ``tokenizer``, token ids can be fed: where the format's control tokens are
    tokens of the vocabulary (Harmony's are), text that merely spells one is no marker then.
    UsageError for an unknown format or a tool without a name. The result depends on the text alone, never on how it
    was cut into pieces.
    """

    def __init__(self, format: str | None = None, tools: Iterable[Any] | None = None, *,
                 reasoning: ReasoningProtocol | None = None, inside: bool = False, new_id: NewId | None = None,
                 tokenizer: Any = None):
        self._cursor = Cursor()
        made = find(format)(Toolbox(tool_schemas(tools))) if format is not None else None
        self.controls = ControlTokens.of(made.controls, tokenizer) if made and tokenizer is not None else None
        self._detokenizer = None if tokenizer is None else tokenizer.detokenizer()
        self._by_ids: bool | None = None
        make = made.router if made is not None and made.router is not None else Router
        self._router = make(self._cursor, made, reasoning, inside, new_id)
        self._steps: Reading[None] = self._router.run()
        self._pieces: list[Piece] = []
        self._output: ParsedOutput | None = None
        self.tail: list[Piece] = []
        """What ``finish`` let go of: the events that ``feed`` still held back."""

    def feed(self, text: str | int | Iterable[int]) -> list[Piece]:
        """Takes more text, or the next token ids; returns what has become certain. UsageError after ``finish``."""
        if self._output is not None:
            raise UsageError("the text has been finished; a new text needs a new ToolStream", where="feed")
        by_ids = not isinstance(text, str)
        if self._by_ids not in (None, by_ids):
            raise UsageError("a stream takes text or token ids, not both", where="feed")
        self._by_ids = by_ids
        return self.take(self._spelled(text) if not isinstance(text, str) else text)

    def take(self, text: str) -> list[Piece]:
        """Takes more text, marked already where the stream has ``controls``."""
        if not text:
            return []
        self._cursor.push(text)
        return self._advance()

    def _spelled(self, ids: int | Iterable[int]) -> str:
        """The text of token ids, marked."""
        listed = [ids] if isinstance(ids, int) else list(ids) if isinstance(ids, Iterable) else [ids]
        if self._detokenizer is None or not all(isinstance(id, int) for id in listed):
            raise UsageError("the model's output must be text, or token ids for a tokenizer", where="feed",
                             found=type(ids).__name__)
        texts = [(id, self._detokenizer.add_token(id)) for id in listed]
        return "".join(self.controls.mark(*one) if self.controls else one[1] for one in texts)

    def _rest(self) -> str:
        text = self._detokenizer.finalize() if self._detokenizer is not None else ""
        return mark(text) if self.controls else text

    def finish(self) -> ParsedOutput:
        """Ends the text; returns all of it, taken apart. What ``feed`` had held back is in ``tail`` now."""
        if self._output is None:
            self.tail = self.take(self._rest()) if self._by_ids else []
            self._cursor.finished = True
            self.tail += self._advance()
            self._output = ParsedOutput.of(self._pieces)
        return self._output

    @property
    def thinking(self) -> bool:
        """Whether what comes next is reasoning, as far as is certain."""
        return self._router.thinking

    def _advance(self) -> list[Piece]:
        new: list[Piece] = []
        for piece in self._steps:
            if piece is not None:
                new.append(unmarked(piece) if self.controls and self._by_ids is not False else piece)
            elif not self._cursor.admit():
                break
        self._pieces += new
        return new


def parse(text: str | Iterable[int], format: str | None = None, tools: Iterable[Any] | None = None, *,
          reasoning: ReasoningProtocol | None = None, inside: bool = False, new_id: NewId | None = None,
          tokenizer: Any = None) -> ParsedOutput:
    """A whole text, or its token ids, taken apart: as a ToolStream fed with it does. The arguments are ToolStream's."""
    stream = ToolStream(format, tools, reasoning=reasoning, inside=inside, new_id=new_id, tokenizer=tokenizer)
    stream.feed(text)
    return stream.finish()
