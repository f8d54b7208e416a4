"""`mlxlm registry`: the tables of types and presets, whole or those that hold a word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

EXAMPLES = """\b
Examples:
  mlxlm registry qwen3
  mlxlm registry --types --json
"""


SHOWN = {
    "types": ("type", "for", "support", "largest error", "reference", "recurrent", "tool calls", "reasoning", "GGUF"),
    "presets": ("name", "for", "id"),
}  # columns for people; --json has all


@click.command(epilog=EXAMPLES)
@click.argument("word", required=False)
@click.option("--types", "which", flag_value="types", help="Only the model types.")
@click.option("--presets", "which", flag_value="presets", help="Only the presets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(word: str | None, which: str | None, as_json: bool) -> None:
    """The model types and presets that are known; with WORD, those that hold it."""
    tables = {}
    if which != "presets":
        tables["types"] = _matching(_types(), word)
    if which != "types":
        tables["presets"] = _matching(_presets(), word)
    if as_json:
        click.echo(json.dumps(tables, ensure_ascii=False))
        return
    if not any(tables.values()):
        click.echo(f"Nothing known holds {word!r}.", err=True)
    for title, rows in tables.items():
        if rows:
            click.echo(f"{title}: {len(rows)}")
            _print([{column: row.get(column, "") for column in SHOWN[title]} for row in rows])


def _types() -> list[dict[str, Any]]:
    from ..proven import rows
    from ..registry import LLMTypeRegistry, VLMTypeRegistry

    known = {(use, row["type"]): {k: v for k, v in row.items() if k != "type"}
             for use, table in rows().items() for row in table}
    return [{"type": entry.model_type, "for": use, "support": entry.kind, "module": entry.module,
             **known.get((use, entry.model_type), {})}
            for use, registry in (("text", LLMTypeRegistry), ("vision", VLMTypeRegistry))
            for entry in registry.shared.entries()]


def _presets() -> list[dict[str, Any]]:
    from ..registry import LLMRegistry, VLMRegistry

    return [{"name": name, "for": use, "id": registry.configuration(name).name}
            for use, registry in (("text", LLMRegistry), ("vision", VLMRegistry)) for name in registry.names]


def _matching(rows: Sequence[dict[str, Any]], word: str | None) -> list[dict[str, Any]]:
    wanted = (word or "").lower()
    return [row for row in rows if any(wanted in str(value).lower() for value in row.values())]


def _print(rows: Sequence[dict[str, Any]]) -> None:
    shown = [{name: name for name in rows[0]}, *rows]
    widths = [max(len(str(row[column])) for row in shown) for column in rows[0]]
    for row in shown:
        cells = (f"{value!s:<{width}}" for value, width in zip(row.values(), widths, strict=True))
        click.echo(f"  {'  '.join(cells)}".rstrip())
