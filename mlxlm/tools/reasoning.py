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
    chat template's variable that turns reasoning on and off. ``before_end`` and ``after_end`` are written around the
    end where a budget closes reasoning early (None: newlines as the family writes them).
    """

    start: str
    end: str
    other_ends: tuple[str, ...] = ()
    implicit_ends: tuple[str, ...] = ()
    inner_newlines: int = 1
    outer_newlines: int = 2
    switch: str | None = None
    before_end: str | None = None
    after_end: str | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        return (self.end, *self.other_ends)

    @classmethod
    def of(cls, config: ReasoningConfig) -> ReasoningProtocol:
        """The protocol that a model's configuration describes."""
        closing = config.budget_transition
        return cls(config.start_delimiter, config.end_delimiter,
                   implicit_ends=tuple(config.implicit_end_delimiters),
                   switch=getattr(config.prompt_strategy, "key", None),
                   before_end=closing and closing.before, after_end=closing and closing.after)

    @property
    def closing(self) -> str:
        """The text that ends reasoning early, so that an answer follows."""
        before = "\n" * self.inner_newlines if self.before_end is None else self.before_end
        return before + self.end + ("\n" * self.outer_newlines if self.after_end is None else self.after_end)

    def write(self, reasoning: str) -> str:
        """The reasoning between its markers, as a model writes it before its answer."""
        inner = "\n" * self.inner_newlines
        return f"{self.start}{inner}{reasoning}{inner}{self.end}" + "\n" * self.outer_newlines

    def open_in(self, prompt: str) -> bool:
        """Whether a prompt ends inside reasoning, so that the model's text begins there."""
        tail = prompt.rstrip()
        return tail.endswith(self.start) or prompt.rfind(self.start) > max(map(prompt.rfind, self.ends))
