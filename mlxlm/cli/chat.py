"""`mlxlm chat`: a conversation at the terminal; without one, a line in, an answer out."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from ..errors import UsageError
from .engine_options import engine_options
from .options import (
    MODEL,
    ROLE,
    chat_sampling_options,
    json_object,
    load,
    loading_options,
    parameters,
    template_options,
)

EXAMPLES = """\b
Examples:
  mlxlm chat smolLM2_135M
  mlxlm chat ./model.gguf --system-prompt "Be brief." --temp 0.7
  mlxlm chat --role frontdoor
  mlxlm chat mlx-community/Qwen3-4B-4bit --tool ./weather.py:forecast
  echo "Why is the sky blue?" | mlxlm chat smolLM2_135M
"""


@click.command(epilog=EXAMPLES, options_metavar="[OPTIONS]")
@click.argument("arguments", type=MODEL, nargs=-1, metavar="[MODEL]")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model, where it isn't the argument.")
@ROLE
@template_options
@chat_sampling_options
@engine_options
@loading_options
@click.option("--tool", "tools", metavar="MODULE:FUNCTION", multiple=True,
              help="A Python function that the model may call, also FILE.py:FUNCTION; may be given again.")
@click.option("--yes-tools", is_flag=True, help="Run calls without asking.")
@click.option("--think", type=click.Choice(["show", "hide", "on", "off"]), multiple=True,
              help="Show reasoning or fold it; turn it on or off.")
@click.option("--stats", is_flag=True, help="Show the figures after each answer.")
def command(arguments: tuple[str, ...], model: str | None, **options: Any) -> None:
    """Talk with a model, turn by turn.

    At a terminal /help lists the commands, Ctrl-C stops an answer, and Ctrl-D leaves. Where input isn't a
    terminal, each line is a turn. A tool's call is run once you have said yes to it.
    """
    sources = [one for one in (model, options["role"], *arguments) if one]
    if len(sources) != 1:
        raise UsageError(f"{len(sources) or 'no'} models were given", expected="mlxlm chat MODEL")
    from .repl_tools import named_tools

    arguments_of = _session_arguments(options)
    tools = named_tools(options["tools"])
    loaded, processor = load(sources[0], options)
    if not processor.has_chat_template:
        raise UsageError("the model has no chat template", where=sources[0],
                         hint="Use `mlxlm generate` to continue text.")
    from .repl import WELCOME, Ask, Repl
    from .repl_input import typed
    from .repl_screen import Plain, Terminal

    here = sys.stdin.isatty()
    watched = here and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    screen = Terminal("hide" in options["think"]) if watched else Plain()
    if watched:  # a message in the midst of a drawing would shift it
        warnings.showwarning = lambda message, *_where: screen.note(f"warning: {message}")
    ask = (lambda call: True) if options["yes_tools"] else Ask(screen) if here else None
    repl = Repl(sources[0], loaded, processor, screen=screen, load=lambda name: load(name, {**options, **OTHER}),
                tools=tools, ask=ask, at_keyboard=here, stats=options["stats"], **arguments_of)
    if here:
        screen.note(f"{sources[0]} · {WELCOME}")
    repl.run(typed(repl) if here else lines())


OTHER = {"role": None, "revision": None, "adapter_path": None, "tokenizer": None, "extra_eos_token": (),
         "draft_model": None, "experts_per_token": None}
"""Options that are for the model of the command line, and no other."""


def _session_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `ChatSession`."""
    chosen = parameters(options)
    chosen["template_kwargs"] = json_object(options["chat_template_config"] or "{}", "--chat-template-config")
    for word in ("on", "off"):
        if word in options["think"]:
            chosen["enable_thinking"] = word == "on"
    return {"instructions": options["system_prompt"], **chosen}


def lines() -> Iterator[str]:
    """The lines of standard input that aren't empty."""
    yield from filter(None, (line.strip() for line in sys.stdin))
