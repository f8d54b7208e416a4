"""Stop strings over streamed text: holds back only what may still become one, and cuts at the earliest."""

from __future__ import annotations

from collections.abc import Iterable

from mlxlm.errors import UsageError


class StopStrings:
    """Finds stop strings in text that arrives in pieces.

    The text let through is the same however the text was cut into pieces: everything before the earliest stop
    string. Empty strings are ignored. The stop string itself, and what follows it, is not let through.
    `matched` names the stop string that was found (of several that begin at one place, the shortest, since it
    is complete first).
    """

    def __init__(self, strings: Iterable[str] = ()):
        if isinstance(strings, str):
            strings = (strings,)
        listed = list(strings)
        for position, string in enumerate(listed):
            if not isinstance(string, str):
                raise UsageError("a stop string must be text", where=f"stop[{position}]",
                                 found=type(string).__name__)
        self.strings = tuple(sorted({s for s in listed if s}, key=lambda s: (-len(s), s)))
        self.matched: str | None = None
        self._held = ""

    def __bool__(self) -> bool:
        return bool(self.strings)

    @property
    def stopped(self) -> bool:
        return self.matched is not None

    def feed(self, text: str) -> tuple[str, bool]:
        """Takes the next piece; returns the text that is safe to show, and whether to stop."""
        if self.stopped:
            return "", True
        if not self.strings:
            return text, False
        text = self._held + text
        found = self._earliest(text)
        keep = self._open_from(text)
        # An earlier stop string may still be growing in front of, or over, the one that is complete.
        if found is not None and (keep is None or found[0] <= keep):
            self._held, self.matched = "", found[1]
            return text[: found[0]], True
        if keep is None:
            self._held = ""
            return text, False
        self._held = text[keep:]
        return text[:keep], False

    def flush(self) -> str:
        """Ends the text: returns what was held back, cut at a stop string that it may yet contain."""
        text, self._held = self._held, ""
        if self.stopped:
            return ""
        found = self._earliest(text)
        if found is None:
            return text
        self.matched = found[1]
        return text[: found[0]]

    def reset(self) -> None:
        self.matched, self._held = None, ""

    def _earliest(self, text: str) -> tuple[int, str] | None:
        hits = [(at, len(s), s) for s in self.strings if (at := text.find(s)) >= 0]
        return (min(hits)[0], min(hits)[2]) if hits else None

    def _open_from(self, text: str) -> int | None:
        """Where the longest tail begins that is the start of a stop string, but not all of it."""
        for at in range(max(0, len(text) - len(self.strings[0]) + 1), len(text)):
            tail = text[at:]
            if any(len(s) > len(tail) and s.startswith(tail) for s in self.strings):
                return at
        return None
