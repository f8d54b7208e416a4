"""How one checkpoint marks calls and reasoning, and what that makes of a prompt and of the answer's text."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import GenerationError
from ..text.adapt import knows_tools
from ..text.messages import REASONING
from ..tools import Piece as Event
from ..tools import ReasoningProtocol, RejectedCall, ToolCall, ToolStream, declared_format
from ..tools.choose import chosen_format, chosen_reasoning, template_text
from ..tools.formats import find
from ..tools.tokens import mark

SWITCHES = ("enable_thinking", "thinking")
"""Templates' variables that turn reasoning on and off, where the protocol names none that the template has."""


@dataclass(frozen=True)
class Conventions:
    """The wire format of tool calls, the reasoning protocol (None: the model has none), and the template's text.

    ``format_from`` and ``protocol_from`` say what the two were chosen by.
    """

    format: str
    protocol: ReasoningProtocol | None
    template: str = ""
    format_from: str = ""
    protocol_from: str = ""

    def template_switch(self, enabled: bool) -> dict[str, bool]:
        """The template's variables that turn reasoning on or off. Raises GenerationError if it can't be turned so."""
        own = [self.protocol.switch] if self.protocol is not None and self.protocol.switch else []
        key = next((name for name in (*own, *SWITCHES) if re.search(rf"\b{re.escape(name)}\b", self.template)), None)
        if key is not None:
            return {key: enabled}
        if (self.protocol is not None) == enabled:
            return {}
        if enabled:
            raise GenerationError("this model has no reasoning to turn on", where="enable_thinking", found="True")
        raise GenerationError("this model's reasoning can't be turned off", where="enable_thinking", found="False",
                              hint="reasoning_budget=0 ends it at once.")

    @property
    def framed(self) -> bool:
        """Whether all of the model's text is in messages of the format's own, calls or not."""
        return find(self.format).router is not None


def conventions_of(model: Any, tokenizer: Any, configuration: Any = None) -> Conventions:
    """What the configuration says, else the checkpoint (tool_parser_type, its template), else its architecture."""
    configuration = configuration or getattr(tokenizer, "configuration", None)
    config = _config(model)
    template = getattr(tokenizer, "chat_template", None)
    reasoning = getattr(configuration, "reasoning", None)
    text = template_text(template)
    declared = declared_format(config)
    if text and not knows_tools(text) and (declared is None or find(declared).router is None):
        shown, declared = None, None  # the tools are described in the general form then, which is the table's default
    else:
        shown = template
    form, form_from = chosen_format(shown, getattr(tokenizer, "tool_parser_type", None), declared,
                                    getattr(configuration, "tool_call_format", None))
    protocol, protocol_from = chosen_reasoning(
        template, model_type=config.get("model_type"), id=getattr(configuration, "name", None),
        configured=None if reasoning is None else ReasoningProtocol.of(reasoning))
    return Conventions(form, protocol, text, form_from, protocol_from)


def _config(model: Any) -> dict[str, Any]:
    """The fields of a model's config that conventions go by."""
    config = getattr(model, "config", None) or getattr(model, "args", None)
    names = ("vocab_size", "rope_scaling", "rope_parameters", "model_type")
    fields = {name: config.get(name) if isinstance(config, Mapping) else getattr(config, name, None) for name in names}
    return {**fields, "model_type": getattr(model, "model_type", None) or fields["model_type"]}


class Parts(NamedTuple):
    """What a stretch of the model's text turned out to be."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    rejected: tuple[RejectedCall, ...] = ()
    events: tuple[Event, ...] = ()


class Reader:
    """Takes an answer apart as it comes; without a stream all of it is text."""

    def __init__(self, stream: ToolStream | None):
        self.stream = stream
        self._calls = 0

    @property
    def called(self) -> bool:
        """Whether the answer has had a call so far."""
        return self._calls > 0

    def mark(self, token: int | None, text: str) -> str:
        """The text of a token, marked so that a control token isn't mistaken for text that spells it."""
        controls = self.stream.controls if self.stream is not None else None
        if controls is None:
            return text
        return mark(text) if token is None else controls.mark(token, text)

    def control(self, token: int) -> str:
        """The text of a token that ends the answer, if the format goes by it."""
        controls = self.stream.controls if self.stream is not None else None
        return "" if controls is None else controls.texts.get(token, "")

    def stops(self, strings: Sequence[str]) -> list[str]:
        """Stop strings as they look in marked text: those that spell a control token stand for the token."""
        controls = self.stream.controls if self.stream is not None else None
        if controls is None:
            return list(strings)
        return [one if one in controls.texts.values() else mark(one) for one in strings]

    def read(self, text: str, last: bool = False) -> Parts:
        if self.stream is None:
            return Parts(text)
        events = self.stream.take(text)
        if last:
            self.stream.finish()
            events = events + self.stream.tail
        if not events:
            return Parts()
        parts = Parts(
            "".join(event.text for event in events if event.kind == "content"),
            "".join(event.text for event in events if event.kind == "reasoning"),
            tuple(event.call for event in events if event.call is not None),
            tuple(event.rejected for event in events if event.rejected is not None), tuple(events))
        self._calls += len(parts.calls)
        return parts


def opens_inside(protocol: ReasoningProtocol, text: str, bare: Any, messages: Sequence[Any],
                 continued: bool | str) -> bool:
    """Whether a rendered prompt ends within reasoning: in its generation prompt, or in a message left open.

    ``bare`` renders the same without the generation prompt; what users wrote must not count.
    """
    if continued:
        key = continued if isinstance(continued, str) else "content"
        said = messages[-1].get(key) if isinstance(messages[-1], Mapping) else None
        return key in REASONING or (isinstance(said, str) and protocol.open_in(said))
    if text.rstrip().endswith(protocol.start):
        return True
    if protocol.start not in text:
        return False
    without = bare()
    return text.startswith(without) and protocol.open_in(text[len(without):])
