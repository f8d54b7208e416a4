"""Which model may draft for which: what is known by name, and what the files themselves say."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .data import data_file, read_toml
from .errors import UsageError

MOST = 8
"""Tokens to draft at once where nothing better is known."""
AHEAD = 3
"""The same for a layer that was trained to guess one token more, and guesses on from its own guesses."""
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
    """A model that drafts, or a layer of the model's own (``ahead``): ``k`` tokens at once; ``lookup`` comes first."""

    model: Any = None
    processor: Any = None
    k: int = MOST
    lookup: bool = False
    ahead: Any = None


def base_name(name: str) -> str:
    """The last part of an id in small letters, without quantization and format: what the registry's patterns match."""
    name = name.rstrip("/").rpartition("/")[2].lower()
    while (shorter := _SUFFIXES.sub("", name)) != name:
        name = shorter
    return name


def advice(target: str, draft: str) -> Advice:
    """What registries/speculative.toml says of two names (ids, or ends of them)."""
    target, draft = base_name(target), base_name(draft)
    tables = read_toml(data_file("speculative.toml"))
    for kind in ("pairs", "excluded", "unrewarding"):
        for row in tables.get(kind, ()):
            if fnmatchcase(target, row["target"]) and any(fnmatchcase(draft, p) for p in row.get("drafts", ["*"])):
                return _advice(kind, row)
    return Advice()


def _advice(kind: str, row: Mapping[str, Any]) -> Advice:
    if kind == "pairs":
        return Advice(row["k"], row.get("lookup", False))
    field = "refused" if kind == "excluded" else "doubtful"
    return Advice(**{field: row["reason"]}, hint=row.get("hint"))


def check_names(target: Any, draft: Any) -> Advice:
    """The registry's advice on what `load` takes; UsageError for a pair that it excludes, a warning for a doubtful one.

    Drafts that need no other model go with all.
    """
    if draft in ("lookup", "mtp"):
        return Advice()
    target, draft = (str(getattr(name, "id", name)) for name in (target, draft))
    said = advice(target, draft)
    if said.refused:
        raise UsageError(f"{draft} can't draft for {target}: {said.refused}", where="draft", hint=said.hint)
    if said.doubtful:
        warnings.warn(f"draft: {said.doubtful}. {said.hint or ''}".strip(), stacklevel=3)
    return said


def check_pair(model: Any, processor: Any, draft: Any, draft_processor: Any = None) -> None:
    """Raises UsageError, with the reason, where a draft's tokens aren't the model's or it can't see what that sees."""
    for net in (model, draft):
        if hasattr(net, "vision_tower"):
            found = getattr(net, "model_type", type(net).__name__)
            raise UsageError("models that see can't take part", where="draft", found=found,
                             expected="a draft for text and a model for text")
    if draft_processor is None:
        _check_sizes(model, draft)
        return
    own, other = (getattr(p, "tokenizer", p) for p in (processor, draft_processor))
    begins, its = (getattr(t, "bos_token_id", None) for t in (own, other))
    if None not in (begins, its) and begins != its:
        raise UsageError("the draft begins its text with another token", where="draft", found=f"BOS {its}",
                         expected=f"BOS {begins}")
    _check_vocabularies(dict(own.get_vocab()), dict(other.get_vocab()))


def _check_vocabularies(mine: dict[str, int], its: dict[str, int]) -> None:
    """All tokens must be the same ones, but for the last few: families add some, and rename those kept in reserve."""
    ordinary = 0.97 * min(len(mine), len(its))
    odd = [token for token, number in its.items() if mine.get(token) != number and number < ordinary]
    few = min(len(mine), len(its)) >= 0.97 * max(len(mine), len(its))
    if odd or not few:
        token = odd[0] if odd else next(t for t in {**mine, **its} if mine.get(t) != its.get(t))
        raise UsageError(
            "the draft has another vocabulary",
            where="draft",
            found=f"{len(its)} tokens, {token!r} being {its.get(token)}",
            expected=f"{len(mine)} tokens, {token!r} being {mine.get(token)}",
            hint="A draft is a smaller model of the same family.",
        )


def _check_sizes(model: Any, draft: Any) -> None:
    sizes = [getattr(getattr(m, "config", None), "vocab_size", None) for m in (model, draft)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise UsageError("the draft has another vocabulary", where="draft", found=sizes[1], expected=sizes[0])


def attach(model: Any, processor: Any, draft: Any, said: Advice, checkpoint: Any, model_config: Any = None) -> None:
    """Gives a loaded model its draft, which generations then use by themselves (``model.draft``).

    draft: "lookup", "mtp", or what `mlxlm.load` takes; said: of the two names. Raises MLXLMError where it can't draft.
    """
    if draft == "mtp":
        from .ahead import load_ahead

        model.draft = Draft(k=AHEAD, ahead=load_ahead(model, checkpoint, model_config))
        return
    if draft == "lookup":
        model.draft = draft
        return
    from .load import load

    net, tokenizer = load(draft)[:2]
    check_pair(model, processor, net, tokenizer)
    model.draft = Draft(net, tokenizer, said.k, said.lookup)
