"""Which wire format and which reasoning protocol a checkpoint uses: registries/conventions.toml holds the table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from mlxlm.data import data_file, read_toml
from mlxlm.errors import ConfigError

from .formats import find
from .reasoning import ReasoningProtocol


@cache
def _table() -> dict[str, Any]:
    return read_toml(data_file("conventions.toml"))


def infer_format(template: Any = None, tool_parser_type: str | None = None, declared: str | None = None,
                 configured: str | None = None) -> str:
    """The tool-call format: as configured; else what the checkpoint shows; else as declared; else JSON.

    A checkpoint shows it by tokenizer_config.json's ``tool_parser_type``, then by markers in its chat ``template``
    (a text, or several by name). ``declared`` is what the model_type stands for; where it reads all that the
    checkpoint's format is, it stays. UsageError for a configured format that there isn't.
    """
    return chosen_format(template, tool_parser_type, declared, configured)[0]


def chosen_format(template: Any = None, tool_parser_type: str | None = None, declared: str | None = None,
                  configured: str | None = None) -> tuple[str, str]:
    """(the format as `infer_format` chooses it, what it was chosen by)."""
    if configured is not None:
        return find(configured).name, "the configuration"
    by_type = _table()["parser_types"].get(tool_parser_type)
    shown = by_type or _by_markers(template_text(template))
    absorbed = _table()["absorbs"].get(declared, ())
    if declared is not None and (shown is None or absorbed == "all" or shown in absorbed):
        return declared, "the model_type"
    if shown is None:
        return _table()["default"], "the default"
    return shown, "tool_parser_type" if by_type else "the chat template's markers"


def template_text(template: Any) -> str:
    """The text of the chat template that is used for tools: ``tool_use`` of several, else ``default``."""
    if isinstance(template, list):
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, Mapping)}
    if isinstance(template, Mapping):
        template = template.get("tool_use") or template.get("default")
    return template if isinstance(template, str) else ""


def _by_markers(template: str) -> str | None:
    rows = _table()["markers"] if template else ()
    return next((row["format"] for row in rows
                 if all(text in template for text in row.get("all", ()))
                 and (not row.get("any") or any(text in template for text in row["any"]))), None)


def declared_format(config: Mapping[str, Any]) -> str | None:
    """The format that a config.json's ``model_type`` stands for, or None."""
    rule = _table()["declared"].get(config.get("model_type"))
    if not isinstance(rule, Mapping):
        return rule
    size = config.get("vocab_size")
    ropes = [config.get(key) for key in ("rope_scaling", "rope_parameters")]
    kinds = [rope.get("rope_type", rope.get("type")) for rope in ropes if isinstance(rope, Mapping)]
    fits = (isinstance(size, int) and size >= rule["least_vocab_size"]) or rule["or_rope_type"] in kinds
    return rule["format"] if fits else None


def reasoning_protocol(name: str) -> ReasoningProtocol:
    """A protocol of the table; ConfigError if there is none of that name."""
    rows = _table()["protocols"]
    if name not in rows:
        raise ConfigError("this reasoning protocol is unknown", where="reasoning", found=repr(name)[:60],
                          expected="one of " + ", ".join(rows))
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                              for key, value in rows[name].items()}
    return ReasoningProtocol(**fields)


def infer_reasoning(template: Any = None, *, model_type: str | None = None, id: str | None = None,
                    configured: ReasoningProtocol | None = None) -> ReasoningProtocol | None:
    """How the checkpoint marks reasoning: as configured, by its id, by its model_type, by its template; or None."""
    return chosen_reasoning(template, model_type=model_type, id=id, configured=configured)[0]


def chosen_reasoning(template: Any = None, *, model_type: str | None = None, id: str | None = None,
                     configured: ReasoningProtocol | None = None) -> tuple[ReasoningProtocol | None, str]:
    """(the protocol as `infer_reasoning` chooses it, what it was chosen by)."""
    if configured is not None:
        return configured, "the configuration"
    table, text, name = _table(), template_text(template), (id or "").lower()
    found = [(row["protocol"], "the model's name") for row in table["ids"] if any(p in name for p in row["contains"])]
    found += [(table["reasoning"][model_type], "the model_type")] if table["reasoning"].get(model_type) else []
    found += [(row["protocol"], "the chat template's markers") for row in table["template_reasoning"]
              if all(part in text for part in row["all"])]
    return (reasoning_protocol(found[0][0]), found[0][1]) if found else (None, "the default")
