"""The drawing of answers on a screen that scrolls: everything once, in order, whatever the pieces and the window."""

from __future__ import annotations

import random

import pytest
from terminal import Screen

from mlxlm.cli import repl_screen
from mlxlm.cli.repl_markdown import rendered, split
from mlxlm.cli.repl_screen import Terminal

MARKDOWN = """# A title

A paragraph with *some* **styles** and `code`, long enough to be wrapped on a screen of forty columns.

- one
- two, which is longer than the screen is wide, so that it needs a second line
  - inner

1. first
2. second

3. third

```python
def f(x):

    return x + 1
```

| a | b |
|---|---|
| 1 | 2 |
| 33 | 4444 |

> quoted

The end
of it.
"""


@pytest.fixture
def screen(monkeypatch):
    """A screen, and a terminal that draws on it at once."""

    def make(columns: int = 40, rows: int = 10, folded: bool = False) -> tuple[Screen, Terminal]:
        own = Screen(columns, rows)
        monkeypatch.setattr(repl_screen.shutil, "get_terminal_size", lambda: (own.columns, own.rows))
        monkeypatch.setattr(repl_screen.time, "monotonic", iter(range(10**9)).__next__)
        return own, Terminal(folded, own.write)

    return make


def pieces(text: str, seed: int, longest: int = 9):
    draw = random.Random(seed)
    while text:
        at = draw.randint(1, longest)
        yield text[:at]
        text = text[at:]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rows", [10, 60])
def test_pieces_make_the_whole(screen, seed, rows):
    own, terminal = screen(rows=rows)
    for piece in pieces(MARKDOWN, seed):
        terminal.text(piece)
    terminal.end()
    assert own.text == "\n".join(rendered(MARKDOWN, 39, False))


def test_what_is_finished_is_written_once(screen):
    own, terminal = screen()
    text = "A short paragraph.\n\n" * 50
    for piece in pieces(text, 0):
        terminal.text(piece)
    terminal.end()
    assert own.text == "\n\n".join(["A short paragraph."] * 50)
    assert own.written < 8 * len(text)


@pytest.mark.parametrize("rows", [3, 8, 30])
def test_a_block_taller_than_the_screen(screen, rows):
    own, terminal = screen(rows=rows)
    code = [f"line({number})" for number in range(100)]
    for piece in pieces("```python\n" + "\n".join(code) + "\n```\nThat was it.\n", rows, 30):
        terminal.text(piece)
    terminal.end()
    assert [line.strip() for line in own.text.splitlines() if line.strip()] == [*code, "That was it."]


def test_a_paragraph_taller_than_the_screen(screen):
    own, terminal = screen(rows=5)
    words = " ".join(f"word{number}" for number in range(300))
    for piece in pieces(words, 3):
        terminal.text(piece)
    terminal.end()
    assert own.text.split() == words.split()


def test_a_screen_that_changes_its_width(screen):
    own, terminal = screen(columns=60, rows=20)
    terminal.text("Some words that stand in one line of the screen. ")
    own.columns = 30
    terminal.text("And more.")
    terminal.end()
    assert own.text.endswith("And more.") and "the screen" in own.text


def test_thoughts_calls_and_text_in_their_order(screen):
    own, terminal = screen(columns=70, folded=True)
    for piece in pieces("I wonder.", 1):
        terminal.thought(piece)
    terminal.text("It *is*.")
    terminal.note("a note")
    terminal.text("More.")
    terminal.end()
    lines = own.text.splitlines()
    assert lines[0].startswith("thought for") and "I wonder" not in own.text
    assert lines[1:] == ["", "It is.", "a note", "", "More."]
    own, terminal = screen()
    terminal.thought("I wonder.")
    terminal.text("So.")
    terminal.end()
    assert own.text == "I wonder.\n\nSo."


def test_an_answer_cannot_steer_the_terminal(screen):
    own, terminal = screen()
    terminal.text("a\x1b[2Jb\x07\x9b31mc\rd")
    terminal.thought("\x1b]0;title\x07x")
    terminal.end()
    assert "\x1b" not in own.text and "\x07" not in own.text and "a[2Jb31mcd" in own.text


def test_no_color(screen, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    sent = []
    terminal = Terminal(False, sent.append)
    terminal.text("# Title\n\n**bold** `code`")
    terminal.thought("hm")
    terminal.end()
    assert "m" not in [part[-1:] for part in "".join(sent).split("\x1b[") if part] and "bold" in "".join(sent)
    assert "\x1b[1m" not in "".join(sent) and "\x1b[2m" not in "".join(sent)


@pytest.mark.parametrize(("text", "open_part"), [
    ("a\n\nb", "a\n\nb"),  # b may become anything yet
    ("a\n\nbcde", "bcde"), ("1. a\n\n2", "1. a\n\n2"), ("```\na\n\nbcde\n", "```\na\n\nbcde\n"),
    ("- a\n\n- b\n", "- a\n\n- b\n"), ("| a |\n|--|\n| b |\n", "| a |\n|--|\n| b |\n"), ("", ""), ("\n\n", "\n\n"),
    ("a\u2028b\n\nbcde", "bcde")])
def test_where_blocks_end(text, open_part):
    assert split(text)[1] == open_part and "".join(split(text)) == text
