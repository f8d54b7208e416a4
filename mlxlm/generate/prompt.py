"""Whatever a caller calls a prompt, as token ids: text, messages for the chat template, or ids themselves."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GenerationError
from .checks import shown
from .loop import token_ids


def tokenizer_of(processor) -> Any:
    """The tokenizer itself, or that of a processor for images and text."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "detokenizer") or not hasattr(tokenizer, "encode_prompt"):
        raise GenerationError("not a tokenizer", where="processor", found=type(processor).__name__,
                              expected="the second of the two things that mlxlm.load returns")
    return tokenizer


def prompt_ids(tokenizer, prompt, tools: Sequence[Any] | None = None,
               template_kwargs: Mapping[str, Any] | None = None) -> np.ndarray:
    """Token ids, int32 (length,). Raises GenerationError for an empty prompt or one of another type.

    A string is encoded as it is, with the tokenizer's BOS unless it starts with it; a list of messages
    (dicts) goes through the chat template; ids stay what they are.
    """
    if template_kwargs is not None and not isinstance(template_kwargs, Mapping):
        raise GenerationError("not a mapping", where="template_kwargs", found=shown(template_kwargs))
    if isinstance(prompt, str):
        return token_ids(_encode(tokenizer, prompt))
    if isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping):
        return token_ids(_render(tokenizer, list(prompt), tools, dict(template_kwargs or {})))
    if tools or template_kwargs:
        raise GenerationError("tools and template_kwargs are for the chat template", where="prompt",
                              found=type(prompt).__name__, expected="a list of messages")
    if prompt is None or isinstance(prompt, (bytes, Mapping, set)):
        raise GenerationError("not a prompt", where="prompt", found=shown(prompt),
                              expected="a string, a list of messages, or token ids")
    return token_ids(prompt)


def _encode(tokenizer, text: str) -> list[int]:
    if not text:
        raise GenerationError("empty", where="prompt", expected="some text",
                              hint="To generate from nothing, pass the id of the BOS token in a list.")
    return tokenizer.encode_prompt(text)


def _render(tokenizer, messages: list[Any], tools: Sequence[Any] | None, more: dict[str, Any]) -> list[int]:
    if not getattr(tokenizer, "has_chat_template", True):
        raise GenerationError("the model has no chat template", where="prompt", found="a list of messages",
                              expected="text", hint="Write the whole prompt as one string.")
    return tokenizer.apply_chat_template(messages, tools=tools, tokenize=True,
                                         **{"add_generation_prompt": True, **more})
