"""A terminal as far as the tests need one: a screen that scrolls, and `mlxlm chat` at the other end of a line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pexpect

PROMPT = "\x1b[?2004h"
"""What is sent when a line is about to be read: pasted text is to be marked."""
TOKEN = re.compile(r"\x1b\[(\d*)([AKJ])|\x1b\[[0-9;]*m|(\r)|(\n)|([^\x1b\r\n])")


class Screen:
    """Lines of text in a window of ``rows``; what leaves it at the top can be seen but not written to any more."""

    def __init__(self, columns: int = 40, rows: int = 10):
        self.columns, self.rows = columns, rows
        self.lines, self.row, self.column = [""], 0, 0
        self.written = 0

    def write(self, text: str) -> None:
        self.written += len(text)
        at = 0
        while at < len(text):
            found = TOKEN.match(text, at)
            assert found, f"the terminal doesn't know {text[at:at + 10]!r}"
            at = found.end()
            self.take(found)

    def take(self, found: re.Match) -> None:
        number, action, back, down, letter = found.groups()
        if action == "A":
            self.row = max(self.row - int(number or 1), len(self.lines) - self.rows, 0)
        elif action == "K":  # behind a full line the cursor stands on the line's last letter
            self.lines[self.row] = self.lines[self.row][:min(self.column, self.columns - 1)]
        elif action == "J":
            self.lines[self.row] = self.lines[self.row][:self.column]
            # what is below is blank, but the window doesn't move back
            self.lines[self.row + 1:] = [""] * (len(self.lines) - self.row - 1)
        elif back:
            self.column = 0
        elif down:
            self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif letter:
            assert self.column < self.columns, "a line is wider than the screen"
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[:self.column] + letter + line[self.column + 1:]
            self.column += 1

    @property
    def text(self) -> str:
        """All lines, the ones that have left the window first, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


class Chat:
    """`mlxlm` in a terminal of its own; its state is kept under ``home``."""

    def __init__(self, home: Path, *arguments: str, code: str = "from mlxlm.cli import main; main()",
                 cwd: Path | None = None, **environment: str):
        own = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "XDG_STATE_HOME": str(home),
               "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        self.child = pexpect.spawn(sys.executable, ["-c", code, *arguments], encoding="utf-8", timeout=30, env=own,
                                   codec_errors="replace", dimensions=(24, 100), cwd=None if cwd is None else str(cwd))
        self.ready()

    def ready(self) -> str:
        """Waits until a line is read again; returns what came before."""
        self.child.expect_exact(PROMPT)
        return self.plain(self.child.before)

    def send(self, text: str) -> str:
        """Types a line; returns what is shown until the next is read."""
        self.child.send(text + "\r")
        return self.ready()

    def leave(self) -> str:
        """Ctrl-D; returns what is shown after it, once the program has ended well."""
        self.child.sendeof()
        rest = self.child.read()
        self.child.close()
        assert self.child.exitstatus == 0, (self.child.exitstatus, rest)
        return self.plain(rest)

    @staticmethod
    def plain(text: str) -> str:
        """Without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", text)
