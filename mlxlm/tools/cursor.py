"""Text that is still arriving: questions about it wait, as generators, until no later text can change the answer.

Every reader asks through here alone, which is why the result can't depend on how the text was cut.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator
from functools import cache
from typing import TypeVar

from .calls import Piece

T = TypeVar("T")
Reading = Generator[Piece | None, None, T]
"""A reader at work: it yields None where it needs more text, a Piece where it is sure of one, and returns a T."""

SLICE = 4096
SPACE = re.compile(r"[ \t\r\n]*")


@cache
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True)))


class Cursor:
    """The text not yet accounted for; positions count from its beginning."""

    def __init__(self) -> None:
        self.text = ""
        self.finished = False
        self._waiting: deque[str] = deque()

    @property
    def ended(self) -> bool:
        """Whether ``text`` is all that there will ever be."""
        return self.finished and not self._waiting

    def push(self, text: str) -> None:
        """Text that has arrived; ``admit`` makes it visible, in slices, so that dropping stays cheap."""
        self._waiting.extend(text[at: at + SLICE] for at in range(0, len(text), SLICE))

    def admit(self) -> bool:
        """Makes more text visible; False if there is none."""
        if not self._waiting:
            return False
        self.text += self._waiting.popleft()
        return True

    def drop(self, count: int) -> str:
        """Takes the first ``count`` characters away, and returns them."""
        taken, rest = self.text[:count], self.text[count:]
        self.text = rest[:SLICE]
        self._waiting.extendleft(reversed([rest[at: at + SLICE] for at in range(SLICE, len(rest), SLICE)]))
        return taken

    def probe(self, start: int, markers: tuple[str, ...]) -> tuple[int, str | None, bool]:
        """The earliest marker from ``start`` (of several at one place the longest), as (position, marker, sure).

        Without a sure answer, the position is how far the text certainly holds no marker.
        """
        match = _pattern(markers).search(self.text, start) if markers else None
        held = len(self.text) if self.ended else self._partial(start, markers)
        if match is not None and match.start() < held:
            return match.start(), match[0], True
        return held, None, self.ended

    def _partial(self, start: int, markers: tuple[str, ...]) -> int:
        size = len(self.text)
        longest = max(map(len, markers), default=0)
        for at in range(max(start, size - longest + 1), size):
            tail = self.text[at:]
            if any(len(marker) > len(tail) and marker.startswith(tail) for marker in markers):
                return at
        return size

    def find(self, start: int, markers: tuple[str, ...]) -> Reading[tuple[int, str | None]]:
        """Where the earliest of the markers is, and which; at the end of the text (its length, None)."""
        at = start
        while True:
            at, marker, sure = self.probe(at, markers)
            if sure:
                return at, marker
            yield None

    def starts(self, at: int, markers: tuple[str, ...]) -> Reading[str | None]:
        """The longest marker that the text has at ``at``, or None."""
        while True:
            rest = self.text[at: at + max(map(len, markers))]
            if self.ended or not any(len(m) > len(rest) and m.startswith(rest) for m in markers):
                return max((m for m in markers if rest.startswith(m)), key=len, default=None)
            yield None

    def skip(self, at: int) -> Reading[int]:
        """The position of the first character from ``at`` that isn't white space; the length where there is none."""
        while True:
            at = SPACE.match(self.text, at).end()  # type: ignore[union-attr]  # it matches the empty text too
            if at < len(self.text) or self.ended:
                return at
            yield None

    def run(self, at: int, pattern: re.Pattern[str]) -> Reading[int]:
        """Where the run of characters that ``pattern`` (a class with ``*``) matches from ``at`` comes to an end."""
        while True:
            at = pattern.match(self.text, at).end()  # type: ignore[union-attr]
            if at < len(self.text) or self.ended:
                return at
            yield None
