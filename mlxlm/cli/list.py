"""`mlxlm list`: the models on this disk, with size, type, quantization and last use."""

from __future__ import annotations

import json
import time

import click

EXAMPLES = """\b
Examples:
  mlxlm list
  mlxlm list qwen --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("word", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(word: str | None, as_json: bool) -> None:
    """The downloaded models; with WORD, those whose names hold it."""
    from ..sources.store import stored

    models = [model for model in stored() if (word or "").lower() in model.name.lower()]
    if as_json:
        click.echo(json.dumps([{**model.__dict__, "folder": str(model.folder)} for model in models]))
        return
    if not models:
        nothing = "No model is downloaded." if word is None else f"No downloaded model's name holds {word!r}."
        click.echo(nothing, err=True)
        return
    from ..files import size

    rows = [(model.name, size(model.size), model.model_type or "?", model.quantization or "-", _ago(model.used),
             "" if model.whole else "incomplete") for model in models]
    rows.insert(0, ("model", "size", "type", "quantization", "last used", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"\n{len(models)} model{'s' * (len(models) != 1)}, {size(sum(model.size for model in models))}")


def _ago(then: float) -> str:
    seconds = max(time.time() - then, 0)
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"
