"""The drafter that a generation's parameters ask for."""

from typing import Any

from ..draft import MOST, Draft, check_pair
from ..errors import GenerationError
from .checks import shown
from .spec_ahead import AheadDrafter
from .spec_drafts import Drafter, DraftModel, FirstOf, PromptLookup


def drafter_of(model: Any, processor: Any, parameters: Any) -> tuple[Drafter, int] | None:
    """(the drafter, most tokens at once), or None for none.

    Raises GenerationError or UsageError for what can't draft for this model.
    """
    asked = parameters.draft if parameters.draft is not None else getattr(model, "draft", None)
    parts: list[Drafter] = []
    most = MOST
    if isinstance(parameters.prompt_lookup, PromptLookup):
        parts.append(parameters.prompt_lookup)
    elif not isinstance(parameters.prompt_lookup, bool | None):
        raise GenerationError("not a lookup", where="prompt_lookup", found=shown(parameters.prompt_lookup),
                              expected="True, False or a PromptLookup")
    elif parameters.prompt_lookup or (isinstance(asked, str) and asked == "lookup"):
        parts.append(PromptLookup())
    if callable(getattr(asked, "propose", None)):
        parts.append(asked)  # type: ignore[arg-type]
    elif asked is not None and asked is not False and not (isinstance(asked, str) and asked == "lookup"):
        draft = _as_draft(model, processor, asked)
        most = draft.k
        parts += [PromptLookup()] if draft.lookup and not parts else []
        parts.append(DraftModel(draft.model) if draft.ahead is None else AheadDrafter(model, draft.ahead))
    if not parts:
        return None
    return (parts[0] if len(parts) == 1 else FirstOf(*parts)), parameters.num_draft_tokens or most


def _as_draft(model: Any, processor: Any, asked: Any) -> Draft:
    if isinstance(asked, str) and asked == "mtp":
        asked = getattr(model, "draft", None)
        if not isinstance(asked, Draft) or asked.ahead is None:
            raise GenerationError("this model was loaded without layers that predict ahead", where="draft",
                                  found='"mtp"', hint='Load it with draft="mtp", if its checkpoint has them.')
    if isinstance(asked, Draft):
        return asked
    net, tokenizer = asked if isinstance(asked, tuple) and len(asked) == 2 else (asked, None)
    if not callable(net) or not hasattr(net, "make_cache") or not hasattr(net, "layers"):
        raise GenerationError("nothing that drafts", where="draft", found=shown(asked),
                              expected='a model, what load returns, "lookup" or "mtp"')
    check_pair(model, processor, net, tokenizer)
    return Draft(net, tokenizer)
