"""`mlxlm verify`: official models from end to end, each in a process of its own, and a report of all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click

EXAMPLES = """\b
Examples:
  mlxlm verify Qwen/Qwen2.5-VL-3B-Instruct
  mlxlm verify --all --markdown report.md
  mlxlm verify --tiny ./tiny-llama ./tiny-gemma
"""


@click.command(epilog=EXAMPLES)
@click.argument("repos", nargs=-1, metavar="[REPO...]")
@click.option("--all", "everything", is_flag=True, help="Every official repository that is run here.")
@click.option("--list", "show", is_flag=True, help="Show the repositories, and what serves the other kinds.")
@click.option("--tiny", is_flag=True, help="REPO is a local folder, of random weights perhaps; nothing is removed.")
@click.option("--keep", is_flag=True, help="Leave what was pulled on the disk.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to a file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(repos: tuple[str, ...], everything: bool, show: bool, tiny: bool, keep: bool, markdown: Path | None,
            as_json: bool) -> int:
    """Official models from end to end: pull, load, ask, call a tool, stop, remove. Exits with 1 if one fails."""
    from .. import verify as checks
    from ..files import write_text

    if show:
        return _show(as_json)
    chosen = list(checks.references()) if everything else list(repos)
    if not chosen:
        raise click.UsageError("Name repositories, or give --all or --list.")
    if not tiny:
        for repo in chosen:
            checks.official(repo)
    reports = []
    for repo in chosen:
        if not as_json:
            click.echo(f"Verifying {repo}", err=True)
        reports.append(_one(repo, tiny, keep) if len(chosen) == 1 else _apart(repo, tiny, keep))
    if markdown is not None:
        write_text(markdown, _table(reports) + "\n")
    click.echo(json.dumps(reports) if as_json else _table(reports))
    return 0 if all(report["good"] for report in reports) else 1


def _one(repo: str, tiny: bool, keep: bool) -> dict:
    from .. import verify as checks

    report = checks.verify_tiny(repo) if tiny else checks.verify(repo, keep=keep)
    return {**asdict(report), "good": report.good}


def _apart(repo: str, tiny: bool, keep: bool) -> dict:
    """In a process of its own: its memory is given back, and a crash is one row of the report."""
    flags = ["--tiny"] * tiny + ["--keep"] * keep
    done = subprocess.run([sys.executable, "-m", "mlxlm", "verify", repo, "--json", *flags], text=True,
                          capture_output=True, check=False)
    if done.stdout.startswith("["):
        return json.loads(done.stdout)[0]
    said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return {"repo": repo, "checks": {"run": said[:300]}, "good": False, "seconds": 0.0, "prompt_tps": None,
            "generation_tps": None, "peak_memory": None}


def _show(as_json: bool) -> int:
    from .. import verify as checks

    if as_json:
        click.echo(json.dumps({"run": checks.references(), "others": checks.others()}))
        return 0
    for repo, task in checks.references().items():
        click.echo(f"{repo:<46}  {task}")
    click.echo("\nNot run here:")
    for repo, served in checks.others().items():
        click.echo(f"{repo:<46}  {served}")
    return 0


def _table(reports: list[dict]) -> str:
    """The reports as a Markdown table, which reads well in a terminal too."""
    from ..files import size

    rows = [("model", "result", "prompt tokens/s", "answer tokens/s", "memory", "seconds")]
    for r in reports:
        wrong = "; ".join(f"{step}: {said}" for step, said in r["checks"].items() if said)
        rows.append((r["repo"], wrong.replace("|", "/") or "good: " + ", ".join(r["checks"]),
                     str(r["prompt_tps"] or "-"), str(r["generation_tps"] or "-"),
                     size(r["peak_memory"]) if r["peak_memory"] else "-", str(r["seconds"])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
