"""What a chat template may use up: steps, time and memory, counted by the sandbox at every place that spends them."""

from __future__ import annotations

import time
from collections.abc import ItemsView, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any

from mlxlm.errors import MLXLMError

STEPS = 1_000_000
"""Loop iterations, macro calls and filter calls of one rendering."""
SECONDS = 10.0
"""Wall time of one rendering; a backstop, since the steps count the same on every machine."""
CHARACTERS = 64 << 20
"""Characters (or eighths of a list's entries) that one rendering may produce, beside …"""
PER_INPUT = 512
"""… this many times the characters that it was given (templates that build text bit by bit copy it often)."""
INTEGER_BITS = 4096

CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)


class TemplateLimit(MLXLMError):
    """A template that uses more than it may; `render` turns it into a TemplateError."""


class Budget:
    """One rendering's account. Lists can't be changed in the sandbox, so what each weighs is remembered."""

    def __init__(self, given: Any = None):
        self.steps = STEPS
        self.until = time.monotonic() + SECONDS
        self.weights: dict[int, tuple[Any, int]] = {}
        self.spans: list[tuple[int, int]] = []
        self.written = 0
        self.limit = CHARACTERS
        self.limit = self.characters = CHARACTERS + PER_INPUT * self.weight(given)

    def step(self, count: int = 1) -> bool:
        """Counts steps; true, so that it can stand in a condition."""
        self.steps -= count
        if self.steps < 0:
            raise TemplateLimit(f"the chat template takes more than {STEPS:,} steps")
        if time.monotonic() > self.until:
            raise TemplateLimit(f"the chat template takes more than {SECONDS:.0f} seconds")
        return True

    def room(self, characters: int) -> None:
        """Refuses what would produce more characters than are left."""
        if characters > self.characters:
            raise TemplateLimit("the chat template produces too much text or too long lists")

    def made(self, value: Any) -> Any:
        """Charges for a value that the template has produced, and returns it."""
        if isinstance(value, str):
            self._charge(len(value))
        elif isinstance(value, CONTAINERS):
            self._charge(8 * len(value))
            self.weight(value)
        elif isinstance(value, int) and value.bit_length() > INTEGER_BITS:
            raise TemplateLimit(f"the chat template computes a number of more than {INTEGER_BITS} bits")
        return value

    def _charge(self, characters: int) -> None:
        self.room(characters)
        self.characters -= characters
        self.step(0)

    def weight(self, value: Any) -> int:
        """The size of a value written out: shared parts count as often as they appear.

        What weighs more than the limit is refused: comparing or printing it could take for ever.
        """
        if isinstance(value, str):
            return len(value) + 2
        if not isinstance(value, CONTAINERS):
            return 8
        known = self.weights.get(id(value))
        if known is not None and known[0] is value:
            return known[1]
        total = 8
        for part in value:
            total += self.weight(part) + (self.weight(value[part]) if isinstance(value, dict) else 0)
            if total > self.limit:
                raise TemplateLimit("the chat template builds a value that is too large")
        self.weights[id(value)] = (value, total)
        return total


_current: ContextVar[Budget | None] = ContextVar("mlxlm_template_budget", default=None)


def current() -> Budget:
    """The budget of the rendering under way; while a template is compiled, a fresh one."""
    budget = _current.get()
    return Budget() if budget is None else budget


class spending:
    """`with spending(budget):` makes it the current one."""

    def __init__(self, budget: Budget):
        self.budget = budget

    def __enter__(self) -> Budget:
        self.token = _current.set(self.budget)
        return self.budget

    def __exit__(self, *_: object) -> None:
        _current.reset(self.token)
