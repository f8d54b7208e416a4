"""`mlxlm fuse`: adapters added to a model's weights for good, in the memory of its largest tensor."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import MODEL

EXAMPLES = """\b
Examples:
  mlxlm fuse mlx-community/Qwen3-4B-4bit --adapter-path ./adapters --save-path ./fused
  mlxlm fuse ./model --adapter-path ./one --adapter-path ./two=0.5 --save-path ./fused --dequantize
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=MODEL)
@click.option("--adapter-path", multiple=True, required=True, metavar="FOLDER[=STRENGTH]",
              help="An adapter of mlx-lm or PEFT; may be given again.")
@click.option("--save-path", type=click.Path(file_okay=False, path_type=Path), default=Path("fused_model"),
              show_default=True, metavar="FOLDER", help="Where to write.")
@click.option("--dequantize", is_flag=True, help="Make plain weights of quantized ones.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]),
              help="Of weights that aren't quantized.")
@click.option("--revision", metavar="REV", help="A branch, tag or commit of the source.")
@click.option("--upload-repo", metavar="OWNER/NAME", help="Upload the result to the hub.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, adapter_path: tuple[str, ...], save_path: Path, dequantize: bool, dtype: str | None,
            revision: str | None, upload_repo: str | None, as_json: bool) -> None:
    """Add adapters to a model's weights. Quantized weights are quantized again as they were, which rounds."""
    from ..convert import convert
    from ..convert.finish import finish
    from ..files import size

    adapters = dict(_with_strength(text) for text in adapter_path)
    done = convert(model, save_path, adapters=adapters, dequantized=dequantize, dtype=dtype, revision=revision)
    finish(done, revision=revision, upload=upload_repo)
    if as_json:
        click.echo(json.dumps({"folder": str(done.folder), "bytes": done.bytes,
                               "bits_per_weight": done.bits_per_weight}))
        return
    click.echo(f"{done.folder}: {size(done.bytes)}, {done.bits_per_weight:.2f} bits a weight")


def _with_strength(text: str) -> tuple[str, float]:
    folder, found, strength = text.rpartition("=")
    try:
        return (folder, float(strength)) if found and not Path(text).exists() else (text, 1.0)
    except ValueError:
        return text, 1.0
