"""What is known of every type that this package builds itself: how it was proven, and what its checkpoints speak."""

from __future__ import annotations

from typing import Any

from .data import data_file, read_toml
from .registry import Entry, LLMTypeRegistry, VLMTypeRegistry

COLUMNS = ("type", "variants", "largest error", "reference", "recurrent", "tool calls", "reasoning", "GGUF")
TITLES = {"text": "Text", "vision": "Vision"}


def rows() -> dict[str, list[dict[str, Any]]]:
    """The native types of both registries by use: ``text`` and ``vision``; a dict by COLUMNS for each type."""
    results = read_toml(data_file("proven.toml"))
    return {use: [_row(entry, registry.shared.entries(), results.get(use, {}), results.get("halves", {}), use)
                  for entry in registry.shared.entries() if entry.kind == "native"]
            for use, registry in (("text", LLMTypeRegistry), ("vision", VLMTypeRegistry))}


def _row(entry: Entry, entries: tuple[Entry, ...], results: dict[str, Any], halves: dict[str, Any],
         use: str) -> dict[str, Any]:
    from .tools.choose import declared_format, infer_reasoning

    variants, found = _found(entry, entries, results)
    if use == "text" and not found:
        _, found = _found(entry, entries, halves)
        variants = "text half: see Vision"
    reasoning = infer_reasoning(model_type=entry.model_type)
    return {
        "type": entry.model_type, "variants": variants,
        "largest error": f"{found['error']:.0e}" if found else "", "reference": found.get("reference", ""),
        "recurrent": "yes" if found.get("recurrent") else "",
        "tool calls": declared_format({"model_type": entry.model_type}) or "",
        "reasoning": reasoning.start if reasoning else "",
        "GGUF": ", ".join(gguf_names().get(entry.model_type, [])) if use == "text" else "",
    }


def _found(entry: Entry, entries: tuple[Entry, ...], results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(the variants in words, the result) of a type, or of another name for the same module."""
    if found := results.get(entry.model_type):
        return ", ".join(found["variants"]), found
    alike = next((e.model_type for e in entries if e.module == entry.module and e.model_type in results), "")
    return (f"as {alike}", results[alike]) if alike else ("", {})


def gguf_names() -> dict[str, list[str]]:
    """llama.cpp's architecture names for each type; some stand for several types."""
    from .checkpoint.gguf_architectures import ALSO, ARCHITECTURES

    names: dict[str, list[str]] = {}
    for name, reading in ARCHITECTURES.items():
        for model_type in (reading.model_type, *ALSO.get(name, ())):
            names.setdefault(model_type, []).append(name)
    return names


def page() -> str:
    """docs/models.md."""
    parts = [INTRODUCTION]
    for use, table in rows().items():
        parts.append(f"## {TITLES[use]}\n")
        parts.append(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        parts += [f"| {' | '.join(_cell(row[c]) for c in COLUMNS)} |" for row in table]
        parts.append("")
    return "\n".join(parts)


def _cell(value: str) -> str:
    return f"`{value}`" if value.startswith("<") or "|" in value else value


INTRODUCTION = """# Models

The types that this package builds itself. Made by `scripts/docs.py` from what the parity matrices found
(`pytest tests/parity tests/vlm --proven`); `mlxlm registry` shows the same.

Each variant is a tiny random checkpoint whose logits, in float32, are compared with the reference's: the whole
prompt at once, in odd chunks, token by token, in a left-padded batch, and from both of Hugging Face's spellings. The
largest error is a part of the spread of the reference's logits; the bound is 1e-4. Tool calls and reasoning are what
the type declares: a checkpoint's own files come first. GGUF names llama.cpp's architectures that load as the type.

Of vision-language models the rows of the tower, the merged embeddings and the logits are compared, for one image, for
several and for films: the whole prompt at once, in chunks, and token by token after it. Their text halves load alone
too, and that is measured where no row of the text matrix has the type.
"""
