"""Chat templates of our own, for families whose checkpoints ship none or a broken one: which one a checkpoint gets."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from mlxlm.data import data_file, read_toml
from mlxlm.errors import ConfigError


@cache
def _rows() -> list[dict[str, Any]]:
    return read_toml(data_file("conventions.toml"))["templates"]


def family_template(model_type: str | None, name: str | None, own: Any = None) -> tuple[str, str] | None:
    """(template, its file) for a checkpoint of that type and name, or None where its ``own`` is to be used.

    Without a template of its own it gets its family's, if there is one; with one, only if that is known to be broken.
    """
    for row in _rows():
        fits = model_type in row["model_types"] and any(part in (name or "").lower() for part in row.get("ids", [""]))
        broken = isinstance(own, str) and bool(row.get("broken")) and all(text in own for text in row["broken"])
        if fits and (own is None or broken):
            path = data_file(row["file"], "chat_templates")
            try:
                return path.read_text(encoding="utf-8"), str(path)
            except OSError as error:
                raise ConfigError(f"it can't be read: {error.strerror}", where=path) from error
    return None


def give_template(tokenizer: Any, model_type: str | None, name: str | None) -> None:
    """Gives a tokenizer its family's template, where it has none, or a broken one (which is told)."""
    found = family_template(model_type, name, tokenizer.chat_template)
    if found is None:
        return
    if tokenizer.chat_template is not None:
        warnings.warn(f"{name}: the chat template of this checkpoint is known to be broken; {found[1]} is used "
                      "instead", stacklevel=2)
    tokenizer.set_template(*found)
