"""`mlxlm lora`: fine-tuning by mlx-lm's trainer, with its names for what it has."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import MODEL

EXAMPLES = """\b
Examples:
  mlxlm lora mlx-community/Qwen3-4B-4bit --data ./data --adapter-path ./adapters --iters 600
  mlxlm lora ./model --data examples.jsonl --fine-tune-type dora --num-layers -1 --mask-prompt
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=MODEL)
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="PATH",
              help="A .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl.")
@click.option("--adapter-path", type=click.Path(file_okay=False, path_type=Path), default=Path("adapters"),
              show_default=True, metavar="FOLDER", help="Where the adapter goes.")
@click.option("--fine-tune-type", "kind", type=click.Choice(["lora", "dora"]), default="lora", show_default=True)
@click.option("--num-layers", "layers", type=int, default=16, show_default=True, metavar="N",
              help="The last layers that are trained; -1 for all.")
@click.option("--rank", type=int, default=8, show_default=True, metavar="N", help="Width of the two factors.")
@click.option("--scale", type=float, default=20.0, show_default=True, metavar="X", help="What their product counts.")
@click.option("--iters", "steps", type=int, default=1000, show_default=True, metavar="N", help="Steps.")
@click.option("--batch-size", "batch", type=int, default=4, show_default=True, metavar="N", help="Examples of a step.")
@click.option("--learning-rate", "rate", type=float, default=1e-5, show_default=True, metavar="X")
@click.option("--max-seq-length", "longest", type=int, default=2048, show_default=True, metavar="N",
              help="Tokens of an example at most; the rest is cut off.")
@click.option("--mask-prompt", "only_answers", is_flag=True, help="Learn the last answer alone.")
@click.option("--grad-checkpoint", "checkpoint", is_flag=True, help="Less memory, more time.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N")
@click.option("--revision", metavar="REV", help="A branch, tag or commit of the model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the folder, and the losses by step.")
def command(model: str, data: Path, adapter_path: Path, revision: str | None, as_json: bool, **plan) -> None:
    """Train a LoRA or DoRA adapter on a dataset."""
    from ..adapters.train import Plan, train
    from ..load import load

    layers = plan.pop("layers")
    loaded, processor = load(model, revision=revision)[:2]
    done = train(loaded, getattr(processor, "tokenizer", processor), data, adapter_path,
                 Plan(**plan, layers=min(layers, len(loaded.layers))))
    if as_json:
        click.echo(json.dumps({"folder": str(done.folder), "losses": done.losses}))
        return
    first, last = done.losses[0][1], done.losses[-1][1]
    click.echo(f"{done.folder}: loss {first:.4f} to {last:.4f}")
