"""`mlxlm chat`: turn by turn through the model's chat template; without a terminal, a line in, an answer out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from ..errors import MLXLMError, UsageError
from .generate import summary, thoughts
from .options import MODEL, json_object, load, loading_options, parameters, sampling_options, template_options

HELP = "/clear forgets the conversation · /exit or Ctrl-D leaves · Ctrl-C stops an answer"


@click.command(options_metavar="[OPTIONS]")
@click.argument("arguments", type=MODEL, nargs=-1, metavar="MODEL")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model, where it isn't the argument.")
@template_options
@sampling_options
@loading_options
@click.option("--stats", is_flag=True, help="Show the figures after each answer.")
def command(arguments: tuple[str, ...], model: str | None, stats: bool, **options: Any) -> None:
    """Talk with a model, turn by turn.

    Ctrl-C stops an answer, Ctrl-D leaves. Where input isn't a terminal, each line is a turn.
    """
    sources = [*([model] if model else []), *arguments]
    if len(sources) != 1:
        raise UsageError(f"{len(sources) or 'no'} models were given", expected="mlxlm chat MODEL")
    chosen = parameters(options)
    chosen["template_kwargs"] = json_object(options["chat_template_config"] or "{}", "--chat-template-config")
    loaded, processor = load(sources[0], options)
    if not processor.has_chat_template:
        raise UsageError("the model has no chat template", where=sources[0],
                         hint="Use `mlxlm generate` to continue text.")
    if sys.stdin.isatty():
        click.echo(click.style(HELP, dim=True), err=True)
    Conversation(loaded, processor, chosen, options["system_prompt"], stats).run()


class Conversation:
    """A session, and the loop that speaks with it."""

    def __init__(self, model, processor, chosen: dict[str, Any], system: str | None, stats: bool):
        from ..chat import ChatSession

        self.session = ChatSession(model, processor, instructions=system, **chosen)
        self.stats = stats

    def run(self) -> None:
        """Reads turns until there are no more, and answers each."""
        for text in turns():
            if text == "/exit":
                return
            if text == "/clear":
                self.session.clear()
            elif text == "/help":
                click.echo(HELP, err=True)
            else:
                self.turn(text)

    def turn(self, text: str) -> None:
        """One question and its answer; a question that can't be answered leaves no trace in the history."""
        try:
            self.answer(text)
        except MLXLMError as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)

    def answer(self, text: str) -> None:
        """Streams the answer, thoughts dimmed; Ctrl-C ends it here, and what was said counts."""
        events = self.session.stream(text, keep_partial=True)
        figures = None
        try:
            for event in events:
                thoughts(event.reasoning)
                click.echo(event.text, nl=False)
                figures = event.piece.stats if event.piece is not None else figures
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
        finally:
            click.echo()
        if self.stats and figures is not None:
            click.echo(click.style(summary(figures), dim=True), err=True)


def turns() -> Iterator[str]:
    """The user's turns: at a terminal with a prompt and line editing, else a line each; empty ones are left out."""
    if not sys.stdin.isatty():
        yield from filter(None, (line.strip() for line in sys.stdin))
        return
    import readline  # noqa: F401 (line editing and history for input())

    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo(f"\n{HELP}", err=True)
            continue
        if text:
            yield text
