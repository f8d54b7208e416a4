"""`mlxlm info`: the facts of one model, a line each, or all of them as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..files import size
from .options import MODEL

if TYPE_CHECKING:
    from ..info import Info

EXAMPLES = """\b
Examples:
  mlxlm info smolLM2_135M
  mlxlm info ./model --context 32768
  mlxlm info ./model.gguf --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=MODEL)
@click.option("--context", type=click.IntRange(1), metavar="N",
              help="Tokens to count the cache for (4096, or the model's own limit).")
@click.option("--revision", metavar="REV", help="A branch, tag or commit of the repository.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, sizes in bytes.")
def command(model: str, context: int | None, revision: str | None, as_json: bool) -> None:
    """What a model is and the memory it needs, without loading it."""
    from ..info import describe

    info = describe(model, context=context, revision=revision)
    if as_json:
        facts = {**asdict(info), "memory_needed": info.memory_needed, "fits": info.fits}
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo(model)
    for label, text in lines(info).items():
        if text:
            click.echo(f"  {label:<13} {text}")
    width = max((len(value) for _, value, _ in info.conventions), default=0)
    for what, value, origin in info.conventions:
        click.echo(f"  {what:<13} {value:<{width}}  {click.style(f'from {origin}', dim=True)}")
    for problem in info.problems:
        click.echo(f"{click.style('problem:', fg='yellow')} {problem}")


def lines(info: Info) -> dict[str, str | None]:
    """The facts as text, by label; None where there is nothing to tell."""
    return {
        "type": f"{info.model_type} ({info.support or 'not supported'})",
        "parameters": _parameters(info),
        "weights": _weights(info),
        "context": f"{info.max_context:,} tokens at most" if info.max_context else None,
        "cache": _cache(info),
        "memory": _memory(info),
        "tokenizer": _tokenizer(info),
        "license": info.license,
        "kernels": info.kernels,
        "files": info.path if info.path != info.source else None,
    }


def _parameters(info: Info) -> str | None:
    if info.parameters is None:
        return None
    total, active = _count(info.parameters), info.active_parameters
    return f"{total}, {_count(active)} active for a token" if active not in (None, info.parameters) else total


def _weights(info: Info) -> str | None:
    where = "on disk" if info.downloaded else "to download"
    disk = f"{size(info.file_bytes)} {where}" if info.file_bytes else None
    if info.bits_per_weight is None:
        return disk
    kind = info.dtype
    if info.quantization:
        q = info.quantization
        mode = "" if q.get("mode", "affine") == "affine" else f" ({q['mode']})"
        mixed = ", mixed" if q["modules_with_their_own"] else ""
        kind = f"{q['bits']} bits{mode} in groups of {q['group_size']}{mixed}"
    return ", ".join(part for part in (kind, f"{info.bits_per_weight:.2f} bits a weight in memory", disk) if part)


def _cache(info: Info) -> str | None:
    if info.cache_bytes is None:
        return None
    return f"{size(info.cache_bytes_per_token or 0)} a token, {size(info.cache_bytes)} at {info.context:,} tokens"


def _memory(info: Info) -> str | None:
    there = f"{size(info.memory_there)} there ({info.device})" if info.memory_there else None
    if info.memory_needed is None:
        return there
    parts = f"{size(info.weight_bytes or 0)} weights, {size(info.cache_bytes or 0)} cache"
    needed = f"{size(info.memory_needed)} needed ({parts})"
    verdict = "" if info.fits in (None, True) else click.style(" · does not fit", fg="red")
    return ", ".join(part for part in (needed, there) if part) + verdict


def _tokenizer(info: Info) -> str | None:
    facts = info.tokenizer
    if facts is None:
        return None
    template = "chat template" if facts["chat_template"] else "no chat template"
    return f"{facts['vocabulary']:,} tokens, {template}"


def _count(number: int) -> str:
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return str(number)
