"""`mlxlm completion`: the script that makes a shell complete commands, options, models and paths."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  mlxlm completion bash >> ~/.bashrc
  mlxlm completion zsh >> ~/.zshrc
  mlxlm completion fish > ~/.config/fish/completions/mlxlm.fish
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """The script that makes a shell complete commands and models."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    click.echo(made(context.find_root().command, {}, "mlxlm", "_MLXLM_COMPLETE").source())
