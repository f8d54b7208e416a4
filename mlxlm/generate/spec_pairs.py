"""Which model may draft for which: what is known by name, and what the files themselves say."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..data import data_file, read_toml
from ..errors import GenerationError, UsageError
from .checks import shown
from .prompt import tokenizer_of
from .spec_drafts import Drafter, DraftModel, FirstOf, PromptLookup

MOST = 8
"""Tokens to draft at once where nothing better is known."""
_SUFFIXES = re.compile(r"-(\d+-?bits?|mlx|gguf|gptq|awq|fp8|bf16|fp16|f16|dwq.*|int[48]|q\d.*|mxfp4.*|nvfp4.*)$")


@dataclass(frozen=True)
class Advice:
    """What the registry says of a pair: the most tokens to draft, whether lookup helps, and why it may not be."""

    k: int = MOST
    lookup: bool = False
    refused: str = ""
    doubtful: str = ""
    hint: str | None = None


@dataclass
class Draft:
    """A model that drafts, as `load_draft` gives it; ``k`` tokens at once, after prompt lookup if ``lookup``."""

    model: Any
    tokenizer: Any
    k: int = MOST
    lookup: bool = False


def base_name(name: str) -> str:
    """The last part of an id in small letters, without quantization and format: what the registry's patterns match."""
    name = name.rstrip("/").rpartition("/")[2].lower()
    while (shorter := _SUFFIXES.sub("", name)) != name:
        name = shorter
    return name


def advice(target: str, draft: str) -> Advice:
    """What registries/speculative.toml says of two names (ids, or ends of them)."""
    target, draft = base_name(target), base_name(draft)
    for kind, rows in read_toml(data_file("speculative.toml")).items():
        for row in rows:
            if fnmatchcase(target, row["target"]) and any(fnmatchcase(draft, p) for p in row.get("drafts", ["*"])):
                return _advice(kind, row)
    return Advice()


def _advice(kind: str, row: Mapping[str, Any]) -> Advice:
    if kind == "pairs":
        return Advice(row["k"], row.get("lookup", False))
    field = "refused" if kind == "excluded" else "doubtful"
    return Advice(**{field: row["reason"]}, hint=row.get("hint"))


def check_names(target: str, draft: str) -> Advice:
    """The registry's advice; UsageError for a pair that it excludes, a warning for one that it has doubts about."""
    said = advice(target, draft)
    if said.refused:
        raise UsageError(f"{draft} can't draft for {target}: {said.refused}", where="draft", hint=said.hint)
    if said.doubtful:
        warnings.warn(f"draft: {said.doubtful}. {said.hint or ''}".strip(), stacklevel=3)
    return said


def check_pair(model: Any, processor: Any, draft: Any, draft_processor: Any) -> None:
    """Raises UsageError, with the reason, where a draft's tokens aren't the model's."""
    if hasattr(model, "vision_tower") or hasattr(model, "language_model"):
        problem = "a draft for text can't see what this model sees"
        raise UsageError(problem, where="draft", found=getattr(model, "model_type", type(model).__name__))
    if draft_processor is None:
        _same_sizes(model, draft)
        return
    own, other = tokenizer_of(processor), tokenizer_of(draft_processor)
    for name in ("bos_token", "eos_token"):
        mine, its = (_token(t, name) for t in (own, other))
        if mine is not None and its is not None and mine != its and name == "bos_token":
            raise UsageError("the draft begins its text with another token", where="draft", found=its, expected=mine)
    mine, its = _vocabulary(own), _vocabulary(other)
    shared = {token for token, number in its.items() if mine.get(token) == number}
    if len(shared) < min(len(mine), len(its)) * 0.99 or not _ordinary(mine, its):
        odd = next(token for token, number in {**its, **mine}.items() if mine.get(token) != its.get(token))
        raise UsageError(
            "the draft has another vocabulary",
            where="draft",
            found=f"{len(its)} tokens, {odd!r} being {its.get(odd)}",
            expected=f"{len(mine)} tokens, {odd!r} being {mine.get(odd)}",
            hint="A draft is a smaller model of the same family.",
        )


def _ordinary(mine: Mapping[str, int], its: Mapping[str, int]) -> bool:
    """Whether no number means one thing here and another there, but among the last few that families rename."""
    first = 0.97 * min(len(mine), len(its))
    return all(mine.get(token, number) == number for token, number in its.items() if number < first)


def _token(tokenizer: Any, name: str) -> Any:
    return getattr(tokenizer, f"{name}_id", None)


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    return dict(tokenizer.get_vocab())


def _same_sizes(model: Any, draft: Any) -> None:
    sizes = [getattr(getattr(m, "config", None), "vocab_size", None) for m in (model, draft)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise UsageError("the draft has another vocabulary", where="draft", found=sizes[1], expected=sizes[0])


def drafter_of(model: Any, processor: Any, parameters: Any) -> tuple[Drafter, int] | None:
    """(the drafter that the parameters ask for, most tokens at once), or None for none.

    Raises GenerationError or UsageError for what can't draft for this model.
    """
    asked = parameters.draft
    if asked is None:
        asked = getattr(model, "draft", None)
    parts: list[Drafter] = []
    most = MOST
    if parameters.prompt_lookup or asked == "lookup":
        lookup = parameters.prompt_lookup
        parts.append(lookup if isinstance(lookup, PromptLookup) else PromptLookup())
    if asked == "mtp":
        parts.append(_ahead(model))
    elif asked and asked != "lookup":
        draft = _as_draft(model, processor, asked)
        most = draft.k
        if draft.lookup and not parts:
            parts.append(PromptLookup())
        parts.append(asked if callable(getattr(asked, "propose", None)) else DraftModel(draft.model))
    if not parts:
        return None
    most = parameters.num_draft_tokens or most
    return (parts[0] if len(parts) == 1 else FirstOf(*parts)), most


def _as_draft(model: Any, processor: Any, asked: Any) -> Draft:
    if isinstance(asked, Draft):
        return asked
    if callable(getattr(asked, "propose", None)):
        return Draft(None, None)
    net, tokenizer = asked if isinstance(asked, tuple) and len(asked) == 2 else (asked, None)
    if not callable(net) or not hasattr(net, "make_cache"):
        raise GenerationError("nothing that drafts", where="draft", found=shown(asked),
                              expected='a model, what load returns, "lookup" or "mtp"')
    check_pair(model, processor, net, tokenizer)
    return Draft(net, tokenizer)


def _ahead(model: Any) -> Drafter:
    head = getattr(model, "ahead", None)
    if head is None:
        raise GenerationError("this model was loaded without layers that predict ahead", where="draft",
                              found='"mtp"', hint='Load it with draft="mtp", if its checkpoint has them.')
    from .spec_ahead import AheadDrafter

    return AheadDrafter(model, head)
