"""What a wire format is: the markers that its calls begin with, a reader of what follows, and a writer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from .calls import Draft, Reason, ToolCall, hex_id
from .cursor import Cursor, Reading
from .jsontext import Scan
from .schema import Toolbox


class Frame(NamedTuple):
    """The text up to ``end``, and what it holds: the raws of the drafts, joined, are that text.

    Without drafts it is content, of which ``shown`` characters have been given out already.
    """

    end: int
    drafts: list[Draft]
    shown: int = 0


class Format(ABC):
    """One wire format, reading for one conversation's tools.

    ``openers`` begin a frame; ``bodies``, if any, are what must follow one inside reasoning, where the name of a
    marker may be mentioned in passing.
    """

    name: ClassVar[str]
    openers: ClassVar[tuple[str, ...]]
    bodies: ClassVar[tuple[str, ...]] = ()
    router: ClassVar[Any] = None  # a Router of its own, where all of the text is in messages
    controls: ClassVar[tuple[str, ...]] = ()  # markers that count as tokens only, where a vocabulary has them
    strict: ClassVar[bool] = False  # arguments that their schema doesn't allow make no call

    @staticmethod
    def new_id() -> str:
        """An id for a call that came without one."""
        return hex_id()

    def __init__(self, toolbox: Toolbox):
        self.toolbox = toolbox

    @abstractmethod
    def frame(self, cursor: Cursor, opener: str) -> Reading[Frame | None]:
        """Reads the frame that begins with ``opener`` at position 0; None if it is no frame after all."""

    @classmethod
    @abstractmethod
    def write(cls, calls: Sequence[ToolCall]) -> str:
        """The calls as the model writes them."""


def reject(raw: str, reason: Reason = "malformed_syntax", detail: str = "") -> Draft:
    return Draft(raw, reason=reason, detail=detail)


def attach(drafts: list[Draft], tail: str) -> None:
    """Gives the last draft the text behind it."""
    if drafts:
        drafts[-1].raw += tail


def broken(cursor: Cursor, start: int, scanned: Scan, at: int, closers: tuple[str, ...], detail: str,
           stops: tuple[str, ...] = ()) -> Reading[tuple[int, Draft, str | None]]:
    """What isn't JSON, from ``start`` to behind the first closer after ``at``, or to before the first of ``stops``.

    Returns where that is, the rejection, and the marker found.
    """
    inside = [(found, marker) for marker in closers if (found := cursor.text.find(marker, at, scanned.end)) >= 0]
    if inside:
        place, marker = min(inside)
    else:
        place, marker = yield from cursor.find(scanned.end, closers + stops)
    end = place + (len(marker) if marker in closers and marker is not None else 0)
    incomplete = marker is None and scanned.state == "cut"
    reason = "incomplete_output" if incomplete else "malformed_syntax"
    return end, reject(cursor.text[start:end], reason, detail), marker
