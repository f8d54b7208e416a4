"""Control tokens known by their ids: text that merely spells one is told apart from the token itself.

A marked text has an invisible character behind every ``<`` that is no token's, so that no marker can begin there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .calls import Piece

BREAK, OWN = "\ufdd0", "\ufdd1"  # noncharacters: no text that is meant to be read holds them


def mark(text: str) -> str:
    """Text in which no marker can begin."""
    return text.replace(BREAK, BREAK + OWN).replace("<", "<" + BREAK)


def unmark(text: str) -> str:
    return text.replace("<" + BREAK, "<").replace(BREAK + OWN, BREAK)


class ControlTokens:
    """The control tokens of a format in one vocabulary, by id."""

    def __init__(self, texts: dict[int, str]):
        self.texts = texts

    @classmethod
    def of(cls, controls: tuple[str, ...], tokenizer: Any) -> ControlTokens | None:
        """None unless the vocabulary has each of them as a token of its own: then only the text can be gone by."""
        find = getattr(tokenizer, "token_to_id", None)
        ids = [find(text) for text in controls] if find is not None else []
        if not ids or any(id is None for id in ids):
            return None
        return cls(dict(zip(ids, controls, strict=True)))

    def mark(self, token: int, text: str) -> str:
        """The text that a token completed, marked; the end of it is the token itself if it is a control token."""
        control = self.texts.get(token)
        if control is None or not text.endswith(control):
            return mark(text)
        return mark(text.removesuffix(control)) + control


def unmarked(piece: Piece) -> Piece:
    """The piece as the model wrote it."""
    call, rejected = piece.call, piece.rejected
    if call is not None:
        call = replace(call, name=unmark(call.name), arguments=_clean(call.arguments), raw=unmark(call.raw),
                       id=unmark(call.id))
    if rejected is not None:
        rejected = replace(rejected, raw=unmark(rejected.raw), name=rejected.name and unmark(rejected.name),
                           id=rejected.id and unmark(rejected.id), arguments=_clean(rejected.arguments))
    return Piece(piece.kind, unmark(piece.text), call, rejected)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return unmark(value)
    if isinstance(value, dict):
        return {unmark(key): _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value
