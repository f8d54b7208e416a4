"""How a family marks its reasoning in text; one object, with nothing of a stream in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxlm.configuration import ReasoningConfig


@dataclass(frozen=True)
class ReasoningProtocol:
    """``start`` and ``end`` enclose reasoning; ``other_ends`` end it too.

    At an ``implicit_end`` a tool call begins, and ends the reasoning if it is one. The markers take up to
    ``inner_newlines`` newlines on their inner sides, and up to ``outer_newlines`` after the end. ``switch`` is the
    chat template's variable that turns reasoning on and off.
    """

    start: str
    end: str
    other_ends: tuple[str, ...] = ()
    implicit_ends: tuple[str, ...] = ()
    inner_newlines: int = 1
    outer_newlines: int = 2
    switch: str | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        return (self.end, *self.other_ends)

    @classmethod
    def of(cls, config: ReasoningConfig) -> ReasoningProtocol:
        """The protocol that a model's configuration describes."""
        return cls(config.start_delimiter, config.end_delimiter,
                   implicit_ends=tuple(config.implicit_end_delimiters),
                   switch=getattr(config.prompt_strategy, "key", None))

    def write(self, reasoning: str) -> str:
        """The reasoning between its markers, as a model writes it before its answer."""
        inner = "\n" * self.inner_newlines
        return f"{self.start}{inner}{reasoning}{inner}{self.end}" + "\n" * self.outer_newlines

    def open_in(self, prompt: str) -> bool:
        """Whether a prompt ends inside reasoning, so that the model's text begins there."""
        tail = prompt.rstrip()
        return tail.endswith(self.start) or prompt.rfind(self.start) > max(map(prompt.rfind, self.ends))
