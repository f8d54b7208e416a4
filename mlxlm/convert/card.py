"""The model card of a conversion: what it was made from and how, what it costs, and how to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from .measure import Quality
from .run import Conversion


def card(conversion: Conversion, quality: Quality | None = None, *, revision: str | None = None,
         license: str | None = None, name: str | None = None) -> str:
    """README.md, with the hub's metadata at its head. ``name`` is the repository that it is meant for."""
    source = conversion.source
    title = name or conversion.folder.name
    on_hub = not Path(source).expanduser().exists() and source.count("/") == 1
    head = ["---", "library_name: mlx", "tags:", "- mlx",
            f"pipeline_tag: {'image-text-to-text' if _sees(conversion) else 'text-generation'}"]
    head += [f"base_model: {source}"] if on_hub else []
    head += [f"license: {license}"] if license else []
    lines = [*head, "---", "", f"# {title}", "",
             f"Converted to MLX from {source if on_hub else Path(source).name}"
             f"{f' at revision {revision}' if revision else ''} with mlxlm {__version__}.", "", *_facts(conversion),
             *(_measured(quality) if quality else []), "", "```python", "from mlxlm import load, generate", "",
             f'model, processor = load("{title}")',
             _example(conversion), "```", ""]
    return "\n".join(lines)


def _sees(conversion: Conversion) -> bool:
    return "vision_config" in conversion.config


def _example(conversion: Conversion) -> str:
    if _sees(conversion):
        said = '[{"role": "user", "content": "What is in this picture?"}], images=["picture.png"]'
    else:
        said = '[{"role": "user", "content": "Hello"}]'
    return f"print(generate(model, processor, {said}))"


def _facts(conversion: Conversion) -> list[str]:
    rows = [("parameters", f"{conversion.parameters:,}"), ("size", f"{conversion.bytes / 1e9:.3f} GB"),
            ("bits per weight", f"{conversion.bits_per_weight:.3f}")]
    if conversion.recipe is not None:
        recipe = conversion.recipe
        base = recipe.base
        said = f"{recipe.name}, {base.bits} bits ({base.mode}) in groups of {base.group_size}"
        said = "bits by measured sensitivity" if recipe.measured else said
        rows.insert(0, ("recipe", f"{said}, {conversion.method}" if conversion.method else said))
        counts: dict[str, int] = {}
        for setting in conversion.settings.values():
            key = f"{setting.bits} bits in groups of {setting.group_size}"
            counts[key] = counts.get(key, 0) + 1
        rows.append(("modules", ", ".join(f"{n} at {key}" for key, n in sorted(counts.items()))))
        rows += [("override", f"`{pattern}`: {_said(s)}") for pattern, s in recipe.overrides.items()]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _said(setting: Any) -> str:
    return "not quantized" if setting is None else f"{setting.bits} bits in groups of {setting.group_size}"


def _measured(quality: Quality) -> list[str]:
    rows = [f"| perplexity | {quality.perplexity:.4f} |"]
    if quality.divergence is not None:
        rows += [f"| the source's perplexity | {quality.source_perplexity:.4f} |",
                 f"| KL divergence from the source | {quality.divergence:.5f} nats a token |",
                 f"| same likeliest token as the source | {quality.agreement:.1%} |"]
    return ["", f"Measured on {quality.tokens:,} tokens of mlxlm's own text:", "", "| | |", "|---|---|", *rows]
