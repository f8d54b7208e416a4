"""Drafts by the model's own layer that predicts ahead, which listens to every pass for the hidden states."""

from typing import Any

import mlx.core as mx

from ..cache import State
from ..decoder import Step
from .sample import Sampler, greedy, log_softmax


class AheadDrafter:
    """Pairs each token's hidden state with the token after it, and so guesses the one after that.

    For further guesses the layer's own output stands for the hidden state that isn't known yet.
    """

    def __init__(self, model: Any, head: Any):
        self._model, self._head = model, head
        self._hidden: mx.array | None = None  # (n, dim), of the tokens from _at on
        self._at = 0
        self._forget(0)

    def _forget(self, first: int) -> None:
        """Begins anew with the pair of token ``first`` and the next."""
        self._first, self._pairs = first, []
        self._state = State([self._head.make_cache()])

    def listening(self, origin: int) -> "Listening":
        """The model under an ear; ``origin`` plus its cache's offset is the number of a token in what is known."""
        return Listening(self._model, self, origin)

    def heard(self, start: int, hidden: mx.array) -> None:
        """The hidden states (L, dim) of the tokens from number ``start`` on."""
        held = 0 if self._hidden is None else self._hidden.shape[0]
        if self._hidden is None or start > self._at + held:  # what lies between is known to nobody
            self._at, self._hidden = start, hidden
            self._forget(start)
            return
        new = hidden[max(self._at - start, 0) :]
        self._hidden = mx.concatenate([self._hidden[: max(start - self._at, 0)], new])

    def propose(self, tokens: list[int], most: int, sampler: Sampler) -> list[int]:
        if self._hidden is None:
            return []
        known = tokens[self._first + 1 :]
        if self._pairs != known[: len(self._pairs)]:
            return []  # another text
        begin = self._first + len(self._pairs) - self._at
        fresh = known[len(self._pairs) :]
        if not fresh or begin < 0 or begin + len(fresh) > self._hidden.shape[0]:
            return []
        hidden = self._ahead(self._hidden[begin : begin + len(fresh)][None], fresh)
        self._pairs += fresh
        self._at, self._hidden = self._at + begin + len(fresh), self._hidden[begin + len(fresh) :]
        return self._guessed(hidden, most, sampler)

    def _guessed(self, hidden: mx.array, most: int, sampler: Sampler) -> list[int]:
        checkpoint, drafts = self._state.checkpoint(most), []
        while True:
            normed = self._head.norm(hidden)
            logits = self._model.head(normed)[:, -1]
            chosen = sampler(logits if sampler is greedy else log_softmax(logits))
            drafts.append(int(chosen.item()))  # type: ignore[arg-type]
            if len(drafts) == most:
                break
            hidden = self._ahead(normed if self._head.carries_normed else hidden, drafts[-1:])
        self._state.rewind(checkpoint)
        mx.eval(self._state.arrays, self._hidden)
        return drafts

    def _ahead(self, hidden: mx.array, tokens: list[int]) -> mx.array:
        """The layer's last output (1, 1, dim) for pairs of hidden states (1, L, dim) and the tokens after them."""
        state, embedded = self._state, self._model.backbone.embed(mx.array([tokens]))
        out = self._head(hidden, embedded, state[0], Step(len(tokens), state))
        state.offset += len(tokens)
        return out[:, -1:]


class Listening:
    """A decoder whose hidden states a drafter hears; all else is the decoder's."""

    def __init__(self, model: Any, drafter: AheadDrafter, origin: int):
        self._model, self._drafter, self._origin = model, drafter, origin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, tokens: mx.array, cache: State) -> mx.array:
        start = cache.offset + self._origin
        hidden = self._model.backbone(self._model.backbone.embed(tokens), cache)
        self._drafter.heard(start, hidden[0])
        return self._model.head(hidden)
