"""`mlxlm name`: what each word of a model's name says, and whether its format can be loaded here."""

from __future__ import annotations

import json

import click

EXAMPLES = """\b
Examples:
  mlxlm name mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit
  mlxlm name TheBloke/Llama-2-13B-Chat-GPTQ --json
  mlxlm name --guide code
"""


@click.command(epilog=EXAMPLES)
@click.argument("name", required=False)
@click.option("--guide", metavar="TASK", help="Models for a task instead: chat, code, math, vision or multilingual.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, guide: str | None, as_json: bool) -> None:
    """What each word of a model's name says: family, size, stage, quantization, format."""
    if guide is not None:
        _show_guide(guide, as_json)
    elif name is None:
        raise click.UsageError("Give a model's name, or --guide TASK.")
    else:
        _show_name(name, as_json)


def _show_name(text: str, as_json: bool) -> None:
    from .. import names

    name = names.parse(text)
    if as_json:
        click.echo(json.dumps(name.as_dict(), ensure_ascii=False))
        return
    width = max(len(part.text) for part in name.parts)
    roles = max(len(part.role) for part in name.parts)
    for part in name.parts:
        click.echo(f"{part.text:<{width}}  {part.role:<{roles}}  {part.meaning}")
    kind, form = names.tables()["kinds"][name.kind], names.tables()["formats"][name.format]
    click.echo()
    click.echo(f"Kind:    {kind['title']}; here it {kind['here']}")
    if name.stage:
        click.echo(f"Stage:   {name.stage}")
    told = name.kind in ("llm", "vlm") or name.loadable != "yes"
    click.echo(f"Format:  {form['title']}" + (f"; loads here: {name.loadable}" if told else ""))
    if form["serves"]:
        click.echo(f"Also in: {', '.join(form['serves'])}")
    for key in ("sizes", "license", "backbone", "encoder", "task", "dimensions", "max_tokens", "note"):
        if key in name.about:
            click.echo(f"{key.replace('_', ' ').capitalize() + ':':<8} {name.about[key]}")


def _show_guide(task: str, as_json: bool) -> None:
    from ..errors import UsageError
    from ..names import tables

    guide = tables()["guide"]
    if task not in guide:
        raise UsageError("there is no guide for this task", where="--guide", found=repr(task),
                         expected=", ".join(guide))
    if as_json:
        click.echo(json.dumps({task: guide[task]}, ensure_ascii=False))
        return
    for row in guide[task]:
        size = row.get("size") or f"{row['memory']} GB"
        click.echo(f"{size:<7}  {', '.join(row['models'])}")
    click.echo("\nTo fine-tune, start from:")
    for stage, reasons in tables()["start"].items():
        click.echo(f"{stage:<9}  {'; '.join(reasons)}")
