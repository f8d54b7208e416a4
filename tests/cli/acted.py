"""`mlxlm chat` with a model that plays a part, for what a random one never does: calls, thoughts, long answers."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "chat"))
from worlds import CHATML, THINKING, Actor, make_tokenizer

from mlxlm.cli.repl import Ask, Repl
from mlxlm.cli.repl_input import typed
from mlxlm.cli.repl_screen import Terminal

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def weather(city: str) -> str:
    """The weather."""
    print("ASKED FOR", city)
    return "sunny"


def play(prompt: str) -> str:
    """What the model says to a prompt."""
    said = prompt.rsplit("<|im_start|>user\n", 1)[-1]
    if "count" in said:
        return " ".join(map(str, range(1000)))
    if "think" in said:
        return "Let me see.\n</think>\n\nIt is **so**."
    if "sunny" in said:
        return "It is **sunny**."
    return "You said no." if "declined" in said else CALL


def main(thinks: bool = False, pause: float = 0.0) -> None:
    tokenizer = make_tokenizer(THINKING if thinks else CHATML)
    actor = Actor(tokenizer, play)
    actor.before_step = lambda: time.sleep(pause)
    screen = Terminal()
    repl = Repl("actor", actor, tokenizer, screen=screen, load=lambda name: (actor, tokenizer),
                tools={} if thinks else {"weather": weather}, ask=Ask(screen), max_tokens=4000)
    repl.run(typed(repl))
