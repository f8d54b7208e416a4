"""`mlxlm doctor`: whether this machine and this installation are in order, and what to do where they aren't."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "red")}


@click.command()
@click.option("--quick", is_flag=True, help="Leave out the measurements of speed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(quick: bool, as_json: bool) -> int:
    """Whether this machine and installation are in order: device, packages, kernels, caches, real operations.

    Exits with 1 where there is a problem.
    """
    from ..doctor import examine

    found = []
    for finding in examine(speeds=not quick):
        found.append(finding)
        if not as_json:
            mark, color = MARKS[finding.state]
            said = f"{finding.name}: {finding.said}"
            click.echo(f"{click.style(f'{mark:<8}', fg=color)}{finding.topic:<11}{said}")
            if finding.hint:
                click.echo(f"{'':<19}{finding.hint}")
    problems = sum(finding.state == "problem" for finding in found)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found]))
    else:
        click.echo("\nAll is in order." if not problems else f"\n{problems} problem{'s' * (problems != 1)}.")
    return 1 if problems else 0
