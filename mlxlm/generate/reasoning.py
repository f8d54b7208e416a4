"""A budget for reasoning: at its end the closing tokens are forced, so that an answer follows."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import GenerationError
from ..tools import ReasoningProtocol, ToolStream

LONGEST_CHARACTER = 3
"""The most tokens that the reasoning may run over its budget, to finish a character."""


class ReasoningBudget:
    """A logits processor that lets ``budget`` tokens of reasoning pass and then writes its end.

    It looks at the tokens only where the budget could be used up by then, so that it costs nothing before. ``stream``
    makes the reader of a fresh answer, which tells what is reasoning; with ``once`` there is none after the answer has
    begun. An end that the model has begun is completed,
    not doubled. Raises GenerationError for a protocol whose end has no tokens.
    """

    def __init__(self, budget: int, protocol: ReasoningProtocol, tokenizer: Any,
                 stream: Callable[[], ToolStream], once: bool = True):
        self.budget, self.tokenizer, self.stream, self.once = budget, tokenizer, stream, once
        self.closing = list(tokenizer.encode(protocol.closing, add_special_tokens=False))
        self.ends = [list(tokenizer.encode(end, add_special_tokens=False)) for end in protocol.ends]
        if not self.closing or not all(self.ends):
            raise GenerationError("the end of this model's reasoning can't be written in tokens",
                                  where="reasoning_budget", found=repr(protocol.closing))
        self.prompt: int | None = None
        self.due: float = budget  # how many tokens must have come before it is worth a look
        self.seen = -1
        self.plan: tuple[int, list[int]] | None = None  # from which count on, and the tokens that are forced
        self._begin()

    def _begin(self) -> None:
        """Nothing of the answer has been looked at."""
        self._reader, self._read, self._used, self._answered = self.stream(), 0, 0, False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self.prompt is None:
            self.prompt = tokens.shape[0]
        count = tokens.shape[0] - self.prompt
        if count <= self.seen:  # tokens of a draft were taken back: what was found out about them is void
            self.due = min(self.due, count)
            self.plan = self.plan if self.plan is not None and self.plan[0] <= count else None
            self._begin()
        self.seen = count
        if self.plan is None and count >= self.due:
            self._look(np.asarray(tokens[self.prompt:]).tolist())
        if self.plan is None:
            return logits
        start, forced = self.plan
        if count >= start + len(forced):
            self.plan, self.due = None, count + 1
            return logits
        chosen = mx.arange(logits.shape[-1]) == forced[count - start]
        return mx.where(chosen, mx.zeros_like(logits), -mx.inf)

    def _look(self, answer: list[int]) -> None:
        """Decides what to do after these tokens: force the end now, or look again when it could be due."""
        for token in answer[self._read:]:
            before = self._reader.thinking
            events = self._reader.feed(token)
            self._used += before and self._reader.thinking
            self._answered = self._answered or any(e.kind == "content" and e.text.strip() for e in events)
        self._read = count = len(answer)
        if not self._reader.thinking:
            self.due = float("inf") if self._answered and self.once else count + max(self.budget - self._used, 1)
        elif self._used < self.budget:
            self.due = count + self.budget - self._used
        elif self._used < self.budget + LONGEST_CHARACTER and self._unfinished(answer):
            self.due = count + 1
        else:
            self.plan = (count, self._rest(answer))

    def _rest(self, answer: list[int]) -> list[int]:
        """The closing tokens, but for those of an end that the answer has begun already."""
        for end in self.ends:
            for length in range(len(end) - 1, 0, -1):
                if answer[-length:] == end[:length]:
                    tail = self.closing[_find(self.closing, end) + len(end):]
                    return end[length:] + tail
        return self.closing

    def _unfinished(self, answer: list[int]) -> bool:
        """Whether the text ends within a character."""
        return self.tokenizer.decode(answer[-8:]).endswith("\ufffd")


def _find(tokens: list[int], part: list[int]) -> int:
    """Where a part stands in a list of tokens; such that nothing follows it where it doesn't."""
    starts = (at for at in range(len(tokens) - len(part) + 1) if tokens[at: at + len(part)] == part)
    return next(starts, len(tokens) - len(part))
