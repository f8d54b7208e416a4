"""`mlxlm convert`: a checkpoint of any kind to an MLX folder, with mlx-lm's names for what mlx-lm has."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import click

from ..errors import UsageError
from ..files import size
from .options import MODEL

EXAMPLES = """\b
Examples:
  mlxlm convert Qwen/Qwen3-4B -q
  mlxlm convert ./checkpoint --mlx-path ./out -q --q-bits 4 --recipe mixed --override '*.v_proj=8'
  mlxlm convert ./model.gguf --mlx-path ./out
  mlxlm convert ./out --mlx-path ./plain --dequantize --dtype bfloat16
"""


@click.command(epilog=EXAMPLES)
@click.argument("source", type=MODEL, required=False)
@click.option("--hf-path", metavar="MODEL", help="The source, where it isn't the argument.")
@click.option("-o", "--mlx-path", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Where to write; by default a folder of the model's name here.")
@click.option("-q", "--quantize", is_flag=True, help="Quantize the weights.")
@click.option("--q-bits", type=int, metavar="N", help="Bits of a weight: 2, 3, 4, 5, 6 or 8 (4).")
@click.option("--q-group-size", type=int, metavar="N", help="Weights that share a scale: 32, 64 or 128 (64).")
@click.option("--q-mode", default="affine", show_default=True, help="affine, mxfp4, mxfp8 or nvfp4.")
@click.option("--recipe", default="mixed", show_default=True,
              help="mixed keeps sensitive layers, embedding and head at more bits; uniform doesn't.")
@click.option("--override", multiple=True, metavar="PATTERN=BITS",
              help="Other bits for the modules whose paths fit; none leaves them plain; may be given again.")
@click.option("--fit/--no-fit", default=True, help="Fit scales by least squares: better at the same size, and slower.")
@click.option("--calibrate/--no-calibrate", default=True,
              help="Fit by how large the weights' inputs are on a short text: reads the source twice.")
@click.option("--method", type=click.Choice(["gptq", "awq", "dwq"]),
              help="Tune by mlx-lm's implementation; needs the model in memory.")
@click.option("--bpw", type=float, metavar="BITS", help="Measure, and spend so many bits a weight in all.")
@click.option("--size", metavar="BYTES", help="Measure, and spend so many bytes in all, such as 3GB.")
@click.option("-d", "--dequantize", is_flag=True, help="Make plain weights of quantized ones.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]),
              help="Of weights that aren't quantized.")
@click.option("--revision", metavar="REV", help="A branch, tag or commit of the source.")
@click.option("--shard-size", type=float, default=5.0, show_default=True, metavar="GB", help="Of a file, at most.")
@click.option("--measure/--no-measure", default=False,
              help="Measure perplexity and divergence from the source, for the model card: loads both.")
@click.option("--upload-repo", metavar="OWNER/NAME", help="Upload the result to the hub.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(source: str | None, hf_path: str | None, mlx_path: Path | None, as_json: bool, **options) -> None:
    """A checkpoint of any kind to an MLX folder, quantized or not; an interrupted conversion goes on."""
    from ..convert import convert
    from ..convert.finish import finish

    source = source or hf_path
    if source is None or (hf_path is not None and hf_path != source):
        raise UsageError("name one source", where="SOURCE", expected="a hub id, a folder or a .gguf file")
    recipe = _recipe(options)
    folder = mlx_path or Path(f"{Path(source.partition(':')[0]).name.removesuffix('.gguf')}-mlx{_suffix(recipe)}")
    bar = _Progress(quiet=as_json or not sys.stderr.isatty())
    with bar:
        done = convert(source, folder, recipe=recipe, method=options["method"], bits_per_weight=options["bpw"],
                       size=_bytes(options["size"]), dtype=options["dtype"], dequantized=options["dequantize"],
                       revision=options["revision"], max_shard_bytes=int(options["shard_size"] * 1e9), progress=bar)
    quality = finish(done, measure=options["measure"], revision=options["revision"], upload=options["upload_repo"])
    if as_json:
        click.echo(json.dumps({"folder": str(done.folder), "parameters": done.parameters, "bytes": done.bytes,
                               "bits_per_weight": done.bits_per_weight, "quality": quality and quality.__dict__}))
        return
    click.echo(f"{done.folder}: {size(done.bytes)}, {done.bits_per_weight:.2f} bits a weight")
    if quality is not None:
        click.echo(f"perplexity {quality.perplexity:.4f} (source {quality.source_perplexity:.4f}), "
                   f"KL divergence {quality.divergence:.5f}")


def _recipe(options):
    from ..convert import Recipe, Setting
    from ..convert.recipes import parse_override

    if not options["quantize"]:
        for name in ("q_bits", "q_group_size", "override", "method", "bpw", "size"):
            if options[name]:
                raise UsageError("it asks for quantized weights", where=f"--{name.replace('_', '-')}", hint="Add -q.")
        return None
    if options["dequantize"]:
        raise UsageError("choose one of --quantize and --dequantize", where="--dequantize")
    base = Setting.of(options["q_bits"], options["q_group_size"], options["q_mode"])
    overrides = dict(parse_override(text) for text in options["override"])
    return Recipe(base, options["recipe"], overrides, fit=options["fit"], calibrate=options["calibrate"])


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if found is None:
        raise UsageError("not a size", where="--size", found=repr(text), expected="bytes, or such as 3GB")
    return int(float(found[1]) * 1000 ** " kmgt".index(found[2] or " "))


def _suffix(recipe) -> str:
    if recipe is None:
        return ""
    return f"-{recipe.base.bits}bit" if recipe.base.mode == "affine" else f"-{recipe.base.mode}"


class _Progress:
    """A line with bytes done and the time left by the pace of late; nothing where nobody watches."""

    SPAN = 30.0  # seconds that the pace is taken from: files that an earlier run left are only read, and quicker

    def __init__(self, quiet: bool):
        self.quiet, self._shown = quiet, 0.0
        self._seen = [(time.monotonic(), 0)]

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or (now - self._shown < 0.2 and done < total):
            return
        self._shown = now
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > self.SPAN:
            del self._seen[0]
        (since, before), pace = self._seen[0], 0.0
        if now > since:
            pace = (done - before) / (now - since)
        left = f", {duration((total - done) / pace)} left" if pace else ""
        click.echo(f"\r\033[KWriting: {size(done)} of {size(total)}{left} ", nl=False, err=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if not self.quiet and self._shown:
            click.echo("\r\033[K", nl=False, err=True)
        if kind is not None and self._shown:
            click.echo("What is written is kept: the same command goes on with it.", err=True)


def duration(seconds: float) -> str:
    """Seconds for people: two units at most."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if not minutes:
        return f"{whole} s"
    return f"{minutes} min {whole % 60} s" if not hours else f"{hours} h {minutes % 60} min"
