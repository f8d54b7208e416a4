"""`mlxlm roles`: the roles, their models, and the memory of the hot ones and of all against this machine's."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

EXAMPLES = """\b
Examples:
  mlxlm roles
  mlxlm roles --file my-roles.toml --json
"""


@click.command(epilog=EXAMPLES)
@click.option("--file", "path", type=click.Path(dir_okay=False), help="Roles of your own, on top of the known ones.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(path: str | None, as_json: bool) -> None:
    """Which model does which work, and the memory that all of them need, against this machine's."""
    from ..info import memory_there
    from ..roles import load_roles, memory

    roles = load_roles(path)
    needed, (there, device) = memory(roles), memory_there()
    if as_json:
        rows = {name: {**asdict(role), "weight_bytes": role.weight_bytes, "runs": role.runs}
                for name, role in roles.items()}
        click.echo(json.dumps({"roles": rows, "memory": {**needed, "there": there}}))
        return
    _table(roles)
    click.echo()
    for key, title in (("hot", "Always in memory"), ("total", "All of them")):
        size = needed[key]
        fits = " fits" if size <= there else " doesn't fit"
        click.echo(f"{title + ':':<18}{size / 1e9:6.0f} GB of weights:{fits}")
    click.echo(f"{'This machine:':<18}{there / 1e9:6.0f} GB ({device})")


def _table(roles) -> None:
    from ..data import data_file, read_toml

    tiers = read_toml(data_file("roles.toml"))["tiers"]
    width = max(map(len, roles))
    for tier in sorted({role.tier for role in roles.values()}):
        click.echo(f"Tier {tier}{f': {tiers[tier]}' if tier in tiers else ''}")
        for role in (r for r in roles.values() if r.tier == tier):
            size = "?" if role.weight_bytes is None else f"{role.weight_bytes / 1e9:.1f} GB"
            click.echo(f"  {role.name:<{width}}  {size:>9}  {role.residence:<4}  {_how(role)}")


def _how(role) -> str:
    said = [role.model if role.shares is None else f"shared with {role.shares}"]
    if role.experts:
        said.append(f"{role.experts} experts")
    if role.draft:
        said.append(f"draft {role.draft}, K={role.num_draft_tokens}")
    if role.lookup:
        said.append("prompt lookup")
    if not role.runs:
        said.append("not run here")
    return ", ".join(said)
