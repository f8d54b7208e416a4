"""What a conversation looks like: plain text where nobody watches, else Markdown that is drawn while it comes.

A block that is finished is printed once. Only the last one is drawn again, from the first line that differs, and of
it only lines that are still on the screen: so nothing flickers, and no answer is too long.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from .repl_markdown import rendered, split

CONTROLS = {code: None for code in [*range(32), 127, *range(128, 160)] if chr(code) not in "\n\t"}
"""What a model may not send to a terminal."""
MOST_SHOWN = 600
"""Characters of a tool's result that are shown."""


class Plain:
    """The answer on standard output as it is, everything else beside it."""

    live = False

    def text(self, text: str) -> None:
        click.echo(text, nl=False)

    def thought(self, text: str) -> None:
        click.echo(click.style(text, dim=True), nl=False, err=True)

    def call(self, call: Any) -> None:
        self.note(f"→ {call_text(call)}")

    def result(self, result: Any) -> None:
        self.note(f"← {result_text(result)}")

    def note(self, text: str) -> None:
        """Something that isn't part of the conversation."""
        click.echo(click.style(text, dim=True), err=True)

    def error(self, text: str) -> None:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True)

    def page(self, text: str) -> None:
        """Text that was asked for by a command."""
        click.echo(text, err=True)

    def end(self) -> None:
        """The answer is whole, or was stopped."""
        click.echo()


class Terminal(Plain):
    """Markdown, dimmed reasoning that can be folded, calls; ``folded`` shows one line for a stretch of reasoning."""

    live = True

    def __init__(self, folded: bool = False, write: Callable[[str], Any] | None = None):
        self.folded = folded
        self.region = Region(write)
        self.color = not os.environ.get("NO_COLOR")
        self._begin()

    def _begin(self) -> None:
        self.open, self.blocks, self.due = "", 0, 0.0
        self.thinking, self.thoughts, self.since = False, 0, 0.0

    def text(self, text: str) -> None:
        self._thought_out()
        self.open += text.translate(CONTROLS)
        if time.monotonic() >= self.due:
            self._draw()

    def thought(self, text: str) -> None:
        if not self.thinking:
            self._close()
            self.thinking, self.thoughts, self.since = True, 0, time.monotonic()
        self.thoughts += 1
        if not self.folded:
            self.region.write(self._dim(text.translate(CONTROLS)))
        elif time.monotonic() >= self.due:
            self._line(f"thinking … {self.thoughts} tokens")
            self.due = time.monotonic() + 0.1

    def _thought_out(self) -> None:
        if not self.thinking:
            return
        self.thinking = False
        if self.folded:
            seconds = time.monotonic() - self.since
            self._line(f"thought for {seconds:.1f} s, {self.thoughts} tokens · /think show")
            self.region.leave()
        else:
            self.region.write("\n")
        self.blocks, self.due = 1, 0.0

    def _line(self, text: str) -> None:
        self.region.draw([self._dim(text[:self.region.size()[0] - 1])])

    def call(self, call: Any) -> None:
        self._close()
        self.note(f"→ {call_text(call)}")

    def result(self, result: Any) -> None:
        self._close()
        self.note(f"← {result_text(result)}")

    def note(self, text: str) -> None:
        self._close()
        self.region.write(self._dim(text.translate(CONTROLS)) + "\n")

    def page(self, text: str) -> None:
        self._close()
        self.region.write(text.translate(CONTROLS) + "\n")

    def end(self) -> None:
        self._close()
        self._begin()

    def _close(self) -> None:
        """Whatever is open is finished here."""
        self._thought_out()
        if self.open.strip():
            self._draw()
            self.region.leave()
            self.blocks += 1
        self.open = ""

    def _draw(self) -> None:
        started = time.monotonic()
        done, self.open = split(self.open)
        if done.strip():
            self._block(done)
            self.region.leave()
            self.blocks += 1
        if self.open.strip():
            self._block(self.open)
        now = time.monotonic()
        self.due = now + max(0.05, 8 * (now - started))  # drawing never takes more than a ninth of the time

    def _block(self, text: str) -> None:
        lines = rendered(text, self.region.size()[0] - 1, self.color)  # behind a full line, erasing takes its end
        self.region.draw(["", *lines] if self.blocks else lines)

    def _dim(self, text: str) -> str:
        return click.style(text, dim=True) if self.color else text


class Region:
    """The last lines that were written, as long as they may be drawn anew; the cursor stands below them."""

    def __init__(self, write: Callable[[str], Any] | None = None):
        self._write = write or _to_stdout
        self.lines: list[str] = []
        self.width = 0

    def size(self) -> tuple[int, int]:
        """Columns and rows of the screen."""
        columns, rows = shutil.get_terminal_size()
        return max(columns, 10), max(rows, 2)

    def write(self, text: str) -> None:
        self.leave()
        self._write(text)

    def leave(self) -> None:
        """What is there stays as it is."""
        self.lines = []

    def draw(self, lines: list[str]) -> None:
        """Brings the lines to ``lines``; those above the screen's edge can't be reached, and stay."""
        width, rows = self.size()
        if width != self.width:
            self.leave()  # the terminal has wrapped them anew, and nobody knows where they are
            self.width = width
        same = next((i for i, pair in enumerate(zip(self.lines, lines, strict=False)) if pair[0] != pair[1]),
                    min(len(self.lines), len(lines)))
        start = max(same, len(self.lines) - (rows - 1))
        if start == len(self.lines) == len(lines):
            return
        up = len(self.lines) - start
        self._write((f"\x1b[{up}A\r" if up else "") + "".join(f"{line}\x1b[K\n" for line in lines[start:])
                    + ("\x1b[J" if up else ""))
        self.lines = lines if len(lines) >= start else self.lines[:start]


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def call_text(call: Any) -> str:
    """A call as Python would write it."""
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def result_text(result: Any) -> str:
    """What a tool gave, the beginning of it."""
    text = result.content
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} … ({len(text):,} characters)"
