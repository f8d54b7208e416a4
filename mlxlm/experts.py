"""How many experts of a sparse model work on each token: an override at load time, and what is known about fewer."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from .data import data_file, read_toml
from .errors import UsageError

NAMES = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "top_k_experts",
         "num_selected_experts")
"""What config.json calls the number of experts that work on a token, by family."""


def override(raw: Mapping[str, Any], count: Any, architecture: Any, *, name: str = "") -> dict[str, Any]:
    """config.json's content with ``count`` experts a token. ``name`` is the model's, for what is known about it.

    Warns where so few are known to cost quality. Raises UsageError for a model without experts, or a count that it
    can't have.
    """
    place = "text_config" if isinstance(raw.get("text_config"), Mapping) else None
    text = raw[place] if place else raw
    declared = {field.name for field in fields(architecture.config)} if is_dataclass(architecture.config) else set()
    own = [key for key in NAMES if isinstance(text.get(key), int)] or [key for key in NAMES if key in declared]
    if not own:
        raise UsageError("this model has no experts to choose from", where="experts_per_token", found=repr(count),
                         expected="a mixture-of-experts model")
    experts = next((text[key] for key in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
                    if isinstance(text.get(key), int)), None)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= (experts or count):
        raise UsageError("not a number of experts", where="experts_per_token", found=repr(count),
                         expected=f"1 to {experts}" if experts else "a whole number of 1 or more")
    row = known(raw, name)
    if row is not None and count < row["floor"]:
        warnings.warn(f"{row['family']} loses quality below {row['floor']} experts a token; "
                      f"{count} were asked for, {row['recommended']} are recommended", stacklevel=4)
    changed = {**text, **dict.fromkeys(own, count)}
    return {**raw, place: changed} if place else changed


def known(raw: Mapping[str, Any], name: str = "") -> dict[str, Any] | None:
    """The row of registries/experts.toml that fits a model by its type, its sizes and its name, or None."""
    inner = raw.get("text_config")
    text = inner if isinstance(inner, Mapping) else raw
    for row in read_toml(data_file("experts.toml"))["models"]:
        sizes = {key: row[key] for key in ("hidden_size", "num_hidden_layers") if key in row}
        fits = raw.get("model_type") in row["model_types"] and all(text.get(k) == v for k, v in sizes.items())
        if fits and re.search(row.get("name", ""), name.lower()):
            return row
    return None
