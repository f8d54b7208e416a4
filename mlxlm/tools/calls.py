"""What parsing gives: calls, rejected calls and pieces; every piece carries the characters that it accounts for."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["malformed_syntax", "incomplete_output", "missing_tool_name", "undeclared_tool", "invalid_arguments"]
Kind = Literal["content", "reasoning", "call", "rejected", "marker"]


@dataclass(frozen=True)
class ToolCall:
    """One call that a model made; ``raw`` is the text that it was read from, with its share of the frame."""

    name: str
    arguments: dict[str, Any]
    id: str = ""
    raw: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class RejectedCall:
    """Text that was meant as a call and isn't one: ``raw``, why, and what could be made out of it."""

    raw: str
    reason: Reason
    name: str | None = None
    id: str | None = None
    detail: str = ""
    arguments: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Piece:
    """A stretch of the model's text and what it is: the texts of all pieces, joined, are what the model wrote.

    ``kind`` is content, reasoning, call, rejected, or marker: the delimiters of reasoning and of messages, which
    belong to neither side. A streamed event is a Piece too.
    """

    kind: Kind
    text: str
    call: ToolCall | None = None
    rejected: RejectedCall | None = None


@dataclass(frozen=True)
class ParsedOutput:
    """A model's whole output taken apart; ``pieces`` keeps the order and every character."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    rejected: tuple[RejectedCall, ...]
    pieces: tuple[Piece, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, pieces: list[Piece]) -> ParsedOutput:
        merged = merge(pieces)
        return cls(
            content="".join(piece.text for piece in merged if piece.kind == "content"),
            reasoning="".join(piece.text for piece in merged if piece.kind == "reasoning"),
            tool_calls=tuple(piece.call for piece in merged if piece.call is not None),
            rejected=tuple(piece.rejected for piece in merged if piece.rejected is not None),
            pieces=tuple(merged),
        )


@dataclass
class Draft:
    """What a format read from ``raw``, before names are checked and ids are given."""

    raw: str
    name: str | None = None
    arguments: Any = None
    id: str | None = None
    reason: Reason | None = None
    detail: str = ""


def merge(pieces: list[Piece]) -> list[Piece]:
    """The pieces with neighbours of one kind joined, so that they don't show how the text arrived."""
    merged: list[Piece] = []
    texts: list[str] = []
    for piece in pieces:
        plain = piece.call is None and piece.rejected is None
        if merged and plain and merged[-1].kind == piece.kind:
            texts.append(piece.text)
            continue
        if len(texts) > 1:
            merged[-1] = Piece(merged[-1].kind, "".join(texts))
        merged.append(piece)
        texts = [piece.text]
    if len(texts) > 1:
        merged[-1] = Piece(merged[-1].kind, "".join(texts))
    return merged


def hex_id() -> str:
    """A new id as OpenAI's API writes it: ``call_`` and 32 hexadecimal digits."""
    return "call_" + secrets.token_hex(16)


def short_id() -> str:
    """A new id as Mistral's templates demand it: nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


NewId = Callable[[], str]
