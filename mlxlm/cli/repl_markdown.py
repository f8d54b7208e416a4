"""Markdown in the making: where its finished blocks end, and a block as lines for a terminal."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

SHORTEST = 4
"""Characters of a block's first line that must be there before the block above it counts as finished: ``2`` may
become the next item of a list, ``--`` the line below a heading."""

STYLE = re.compile(r"\x1b\[[0-9;]*m")


@lru_cache(maxsize=1)
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt().enable("strikethrough").enable("table")


def blocks(text: str) -> list[str]:
    """The text cut where its blocks (paragraphs, lists, fences …) begin."""
    starts = [token.map[0] for token in _parser().parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # as the parser counts them
    return ["".join(lines[a:b]) for a, b in pairwise([0, *sorted({*starts} - {0}), len(lines)])]


def split(text: str) -> tuple[str, str]:
    """(the blocks that nothing can change any more, the last block, which may go on)."""
    *done, last = blocks(text) or [""]
    if len(last.strip()) < SHORTEST and "\n" not in last:
        return "", text
    return "".join(done), last


def rendered(text: str, width: int, color: bool = True) -> list[str]:
    """Markdown as lines with their styles, a blank one between two blocks."""
    lines: list[str] = []
    for block in blocks(text):
        made = _rendered(block, width, color)
        lines += ["", *made] if lines and made else made
    return lines


def _rendered(text: str, width: int, color: bool) -> list[str]:
    """One block, without blank lines around it."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, no_color=not color, highlight=False,
                      color_system="auto" if color else None, legacy_windows=False)
    console.print(_markdown()(text, code_theme="ansi_dark"))
    lines = [line.rstrip(" ") for line in out.getvalue().split("\n")]
    said = [i for i, line in enumerate(lines) if STYLE.sub("", line).strip()]
    return lines[said[0]:said[-1] + 1] if said else []


@lru_cache(maxsize=1)
def _markdown() -> type:
    """rich's Markdown with headings at the left, where text begins, and code without blank lines around it."""
    from rich import markdown
    from rich.syntax import Syntax

    class Heading(markdown.Heading):
        def __rich_console__(self, console, options):
            self.text.justify = "left"
            yield self.text

    class CodeBlock(markdown.CodeBlock):
        def __rich_console__(self, console, options):
            yield Syntax(str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 2))

    class Markdown(markdown.Markdown):
        elements: ClassVar = {**markdown.Markdown.elements, "heading_open": Heading, "fence": CodeBlock,
                              "code_block": CodeBlock}

    return Markdown
