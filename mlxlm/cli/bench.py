"""`mlxlm bench`: how fast a model reads prompts and writes answers here, and beside other engines in the same run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..kernels.rounding import CHOICES
from .options import MODEL

EXAMPLES = """\b
Examples:
  mlxlm bench smolLM2_135M
  mlxlm bench ./model.gguf -p 128,1024 -n 64 --compare llama.cpp,transformers
  mlxlm bench ./model --batch 1,4 --json --plot speed.svg
"""


class Counts(click.ParamType):
    """Whole numbers from 1 on, between commas."""

    name = "counts"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} isn't a list of numbers such as 128,512", param, ctx)
        return tuple(int(part) for part in parts)


@click.command(epilog=EXAMPLES)
@click.argument("model", type=MODEL)
@click.option("-p", "--prompt-tokens", type=Counts(), default=(512,), metavar="N,...",
              help="Lengths of the prompt (512).")
@click.option("-n", "--generation-tokens", type=click.IntRange(1), default=128, show_default=True, metavar="N",
              help="Tokens to write after it.")
@click.option("-b", "--batch", type=Counts(), default=(1,), metavar="N,...", help="Rows at a time (1).")
@click.option("--trials", type=click.IntRange(1), default=5, show_default=True, metavar="N",
              help="Counted runs, after one to warm up.")
@click.option("--compare", metavar="ENGINE,...", default="", help="mlx-lm, llama.cpp, transformers: where installed.")
@click.option("--activations", type=click.Choice(CHOICES), help="Measure with activations rounded to 8 bits as well.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the bars to an SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, prompt_tokens: tuple[int, ...], generation_tokens: int, batch: tuple[int, ...], trials: int,
            compare: str, activations: str | None, plot: Path | None, as_json: bool) -> None:
    """How fast a model is here: tokens per second, medians of trials, with the least and the most."""
    from ..bench import bars, measure, svg
    from ..files import write_text
    from ..sources import locate

    ours = ["mlxlm", f"mlxlm-{activations}"] if activations else ["mlxlm"]
    engines = list(dict.fromkeys([*ours, *(name.strip() for name in compare.split(",") if name.strip())]))
    rows = measure(locate(model), engines, prompt_tokens, generation_tokens, batch, trials,
                   lambda text: click.echo(f"Measuring: {text}", err=True))
    if plot is not None:
        write_text(plot, svg(rows))
    if as_json:
        click.echo(json.dumps({"model": model, "trials": trials, "rows": [asdict(row) for row in rows]}))
        return
    click.echo(f"{'engine':<13}{'prompt':>8}{'batch':>7}{'reads tokens/s':>26}{'writes tokens/s':>26}")
    for row in rows:
        head = f"{row.engine:<13}{row.prompt_tokens:>8}{row.batch:>7}"
        click.echo(f"{head}  left out: {row.left_out}" if row.left_out else
                   f"{head}{_shown(row.prompt_tps):>26}{_shown(row.generation_tps):>26}")
    if len(engines) > 1 or len(rows) > 1:
        click.echo()
        click.echo("\n".join(bars(rows)))


def _shown(spread) -> str:
    return "-" if spread is None else f"{spread.median:.1f} ({spread.least:.1f}-{spread.most:.1f})"
