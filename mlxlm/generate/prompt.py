"""Whatever a caller calls a prompt, as token ids, and how the answer to it is read: text, messages, or ids."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..errors import GenerationError
from ..text.adapt import GENERATORS, adapted
from ..tools import ToolStream
from ..tools.functions import tool_schemas
from .checks import shown
from .conventions import Conventions, Reader, conventions_of, opens_inside
from .loop import token_ids
from .media import Encoding, with_media
from .parameters import GenerateParameters
from .reasoning import ReasoningBudget
from .tool_choice import Frame


@dataclass
class Prompt:
    """Token ids, int32 (length,), the reader of the answer to them, and the processor of its reasoning budget.

    ``media`` is what a processor made of images and videos: its `Inputs`; ``frame`` what may be around the answer.
    ``before`` are ids that came in front and that the cache holds, which penalties and drafts look at too.
    """

    ids: np.ndarray
    reader: Reader = field(default_factory=lambda: Reader(None))
    budget: ReasoningBudget | None = None
    media: Any = None
    frame: Frame | None = None
    before: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def keys(self) -> list[int]:
        """As many numbers as ids, alike in two prompts where a cache holds the same: media go by their content."""
        return self.ids.tolist() if self.media is None else self.media.keys

    def border(self, count: int) -> int:
        """The most ids, up to ``count``, that can be taken off the beginning without cutting a medium."""
        return count if self.media is None else self.media.prefix(count)

    @property
    def media_end(self) -> int:
        """Where the last medium's ids end; 0 without media."""
        return max((end for _, end, _ in getattr(self.media, "items", ())), default=0)

    def after(self, count: int) -> "Prompt":
        """The rest behind the first ``count`` ids, which the cache holds, with the media that stand there."""
        media = self.media.after(count) if self.media is not None else None
        before = np.concatenate([self.before, self.ids[:count]])
        return replace(self, ids=self.ids[count:], media=media, before=before)


def is_messages(prompt) -> bool:
    """Whether a prompt is a list of messages: not text, nor ids."""
    return (isinstance(prompt, Sequence) and not isinstance(prompt, str) and len(prompt) > 0
            and isinstance(prompt[0], Mapping))


def prepare(model, processor, prompt, parameters: GenerateParameters, configuration=None) -> Prompt:
    """A prompt ready for the loop. Raises GenerationError for what isn't one, and for what can't be done with it.

    Calls are looked for where tools are offered, reasoning wherever the model has some; a plain prompt's answer is
    left as it is unless ``parse`` asks for more.
    """
    if isinstance(prompt, Prompt):
        return prompt
    tokenizer = tokenizer_of(processor)
    prompt, reading = with_media(processor, tokenizer, prompt, parameters)
    chat = is_messages(prompt)
    if not (chat if parameters.parse is None else parameters.parse):
        if parameters.reasoning_budget is not None:
            raise GenerationError("reasoning is told apart where the prompt is a list of messages",
                                  where="reasoning_budget", found=type(prompt).__name__, hint="Or pass parse=True.")
        ids = prompt_ids(tokenizer, prompt, *_for_template(parameters, conventions=None), reading)
        return Prompt(ids, media=reading.media)
    conventions = conventions_of(model, tokenizer, configuration)
    prompt = _generated(prompt, tokenizer, configuration, parameters) if chat else prompt
    schemas, variables = _for_template(parameters, conventions)
    if chat:
        ids, inside = _rendered(tokenizer, list(prompt), schemas, variables, conventions, reading)
    else:
        ids = prompt_ids(tokenizer, prompt, None, variables, reading)
        text = prompt if isinstance(prompt, str) else tokenizer.decode(ids[-64:].tolist())
        inside = conventions.protocol is not None and text.rstrip().endswith(conventions.protocol.start)
    frame = Frame(conventions.format, schemas, conventions.protocol, inside)
    return Prompt(ids, *_reading(tokenizer, conventions, schemas, inside, parameters), reading.media, frame)


def _generated(messages, tokenizer, configuration, parameters: GenerateParameters) -> list[Any]:
    """The messages as the configuration's message generator makes them."""
    name = getattr(configuration or getattr(tokenizer, "configuration", None), "message_generator", None)
    if name is None:
        return list(messages)
    if name not in GENERATORS:
        raise GenerationError("this message generator is not known", where="message_generator", found=repr(name)[:60],
                              expected=", ".join(GENERATORS))
    return GENERATORS[name](messages, parameters.template_kwargs or {})


def _for_template(parameters: GenerateParameters,
                  conventions: Conventions | None) -> tuple[list[Any] | None, dict[str, Any]]:
    """The tools' schemas and the template's variables."""
    schemas = tool_schemas(parameters.tools) if parameters.tool_choice != "none" else None
    switch: dict[str, Any] = {}
    if parameters.enable_thinking is not None:
        if conventions is None:
            raise GenerationError("it is for the chat template", where="enable_thinking",
                                  expected="a list of messages for a prompt")
        switch = conventions.template_switch(parameters.enable_thinking)
    return schemas, {**switch, **(parameters.template_kwargs or {})}


def _rendered(tokenizer, messages: list[Any], schemas, variables: dict[str, Any],
              conventions: Conventions, reading: Encoding) -> tuple[np.ndarray, bool]:
    """The ids of messages, and whether the prompt ends within reasoning."""
    if conventions.protocol is None:
        return reading.rendered(partial(_render, tokenizer, messages, schemas, variables)), False
    text = _render(tokenizer, messages, schemas, variables)
    bare = partial(_render, tokenizer, messages, schemas, {**variables, "add_generation_prompt": False})
    inside = opens_inside(conventions.protocol, text, bare, messages, variables.get("continue_final_message", False))
    return reading.ids(text), inside


def _reading(tokenizer, conventions: Conventions, schemas, inside: bool,
             parameters: GenerateParameters) -> tuple[Reader, ReasoningBudget | None]:
    """How the answer is taken apart, and what holds its reasoning to its budget."""
    format = conventions.format if schemas is not None or conventions.framed else None
    protocol = conventions.protocol
    if format is None and protocol is None:
        if parameters.reasoning_budget is not None:
            raise GenerationError("this model doesn't mark its reasoning, so it can't be held to a budget",
                                  where="reasoning_budget", found=shown(parameters.reasoning_budget))
        return Reader(None), None
    offered = schemas if schemas is not None or format is None else []
    stream = partial(ToolStream, format, offered, reasoning=protocol, inside=inside, tokenizer=tokenizer)
    if parameters.reasoning_budget is None:
        return Reader(stream()), None
    if protocol is None:
        raise GenerationError("this model doesn't mark its reasoning, so it can't be held to a budget",
                              where="reasoning_budget", found=shown(parameters.reasoning_budget))
    budget = ReasoningBudget(parameters.reasoning_budget, protocol, tokenizer, stream, once=not conventions.framed)
    return Reader(stream()), budget


def tokenizer_of(processor) -> Any:
    """The tokenizer itself, or that of a processor for images and text."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "detokenizer") or not hasattr(tokenizer, "encode_prompt"):
        raise GenerationError("not a tokenizer", where="processor", found=type(processor).__name__,
                              expected="the second of the two things that mlxlm.load returns")
    return tokenizer


def prompt_ids(tokenizer, prompt, tools: Sequence[Any] | None = None,
               template_kwargs: Mapping[str, Any] | None = None, reading: Encoding | None = None) -> np.ndarray:
    """Token ids, int32 (length,). Raises GenerationError for an empty prompt or one of another type.

    A string is encoded as it is, with the tokenizer's BOS unless it starts with it; a list of messages
    (dicts) goes through the chat template; ids stay what they are.
    """
    if template_kwargs is not None and not isinstance(template_kwargs, Mapping):
        raise GenerationError("not a mapping", where="template_kwargs", found=shown(template_kwargs))
    reading = reading or Encoding(tokenizer)
    if isinstance(prompt, str):
        return reading.ids(_some(prompt), whole=True)
    if is_messages(prompt):
        return reading.rendered(partial(_render, tokenizer, list(prompt), tools, dict(template_kwargs or {})))
    if tools or template_kwargs:
        raise GenerationError("tools and template_kwargs are for the chat template", where="prompt",
                              found=type(prompt).__name__, expected="a list of messages")
    if prompt is None or isinstance(prompt, (bytes, Mapping, set)):
        raise GenerationError("not a prompt", where="prompt", found=shown(prompt),
                              expected="a string, a list of messages, or token ids")
    return token_ids(prompt)


def _some(text: str) -> str:
    if not text:
        raise GenerationError("empty", where="prompt", expected="some text",
                              hint="To generate from nothing, pass the id of the BOS token in a list.")
    return text


def _render(tokenizer, messages: list[Any], tools: Sequence[Any] | None, more: dict[str, Any],
            tokenize: bool = False) -> Any:
    if not getattr(tokenizer, "has_chat_template", True):
        raise GenerationError("the model has no chat template", where="prompt", found="a list of messages",
                              expected="text", hint="Write the whole prompt as one string.")
    options = {"add_generation_prompt": True, **more, "tokenize": tokenize}
    return adapted(tokenizer, messages, tools,
                   lambda chat, offered: tokenizer.apply_chat_template(chat, tools=offered, **options))
