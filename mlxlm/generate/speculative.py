"""Speculative decoding: several drafted tokens are read in one pass, and those that the model would have said stay.

Every token of the answer is chosen from the model's own logits after the very tokens before it, by the same sampler,
processors and constraint, in the same order: a draft changes when they are computed, never what is chosen. Greedy text
is the same, and so is sampled text with the same seed. What was read in vain is trimmed away; where a layer can't be
trimmed the whole pass is taken back to a checkpoint, and its accepted tokens are read again with the next one.
"""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import mlx.core as mx

from ..cache import Checkpoint, State
from ..errors import GenerationError
from .checks import integer, shown
from .loop import CLEAR_EVERY, TokenIterator, arrays_of
from .sample import greedy
from .spec_drafts import Drafter, Pace, Worth, fork

UNREAD = 16
"""Tokens waiting to be read again beyond which they get a pass of their own."""


class SpeculativeIterator(TokenIterator):
    """A TokenIterator that asks a `Drafter`; ``num_draft_tokens`` is the most that it asks for at once.

    ``proposed`` and ``accepted`` count drafted tokens, ``passes`` those over the model after the prompt.
    """

    def __init__(self, prompt, model: Any, *, drafter: Drafter, num_draft_tokens: int = 8, **settings: Any):
        if not callable(getattr(drafter, "propose", None)):
            raise GenerationError("not a drafter", where="draft", found=shown(drafter))
        self.pace = Pace(integer("num_draft_tokens", num_draft_tokens, 1))
        self.worth, self.clock = Worth(), perf_counter
        self.drafter = drafter
        self.proposed = self.accepted = self.passes = 0
        super().__init__(prompt, model, **settings)
        if not isinstance(self.cache, State):
            raise GenerationError("tokens can't be taken back in this cache", where="draft", found=shown(self.cache))
        self._known = [*self.before.tolist(), *self.prompt.tolist()]
        self._base = len(self.before) - self.cached_tokens  # of what is known, the cache has read this plus its offset
        self._checkpoint: Checkpoint | None = None
        if hasattr(drafter, "listening") and self.media is None:
            self.model = drafter.listening(self._base)  # type: ignore[attr-defined]
        vocab = getattr(getattr(model, "config", None), "vocab_size", None)
        self._vocab = vocab if isinstance(vocab, int) else None

    def _tokens(self) -> Iterator[tuple[int, mx.array]]:
        for _ in self.prefill():
            self._interrupt.deliver()
        if self.cancelled():
            return
        with self._interrupt:
            token, logits = self.first()
            found = [(int(token.item()), logits)]  # type: ignore[arg-type]
        try:
            while len(self.tokens) < self.limit:
                for token, logits in found:
                    self.tokens.append(token)
                    self._known.append(token)
                    yield token, logits
                    self._interrupt.deliver()
                    if self.cancelled():
                        return
                    if len(self.tokens) % CLEAR_EVERY == 0:
                        mx.clear_cache()
                if len(self.tokens) < self.limit:
                    with self._interrupt:
                        found = self._pass()
        finally:
            self._settle()

    def _pass(self) -> list[tuple[int, mx.array]]:
        """The next tokens with their logits (vocab,): one, and a draft's as far as it is right."""
        start = self.clock()
        waiting = self._waiting()
        drafts = self._drafts(len(waiting))
        self._checkpoint = self.cache.checkpoint(len(waiting) + len(drafts))
        logits = self.model(mx.array([[*waiting, *drafts]]), cache=self.cache)[:, len(waiting) - 1 :]
        self.policy.apply(self.cache)
        self.passes += 1
        found = self._chosen_all(drafts, logits)
        right = len(found) - 1
        if refused := len(drafts) - right:
            self._take_back(refused)
        if not self._forced:
            # Tokens that are read a second time are a cost of the draft that was wrong.
            self.worth.note(self.clock() - start, len(found), bool(drafts) or len(waiting) > 1)
        return found

    def _waiting(self) -> list[int]:
        """Known tokens that the cache has not read; many of them are read at once, but the last."""
        waiting = self._known[self._base + self.cache.offset :]
        if len(waiting) <= UNREAD:
            return waiting
        self.model(mx.array([waiting[:-1]]), cache=self.cache)
        mx.eval(arrays_of(self.cache))
        return waiting[-1:]

    def _drafts(self, waiting: int) -> list[int]:
        room = self.limit - len(self.tokens) - 1
        if self.policy.bits is not None and self.cache.offset < self.policy.start:
            # Packing begins where the plain run's does: on a token that is there to stay.
            room = min(room, self.policy.start - 1 - self.cache.offset - waiting)
        most = int(min(self.pace.most, room))
        self._forced = False
        if most <= 0:
            return []
        if self.constraint is not None:
            self.constraint.follow(self.tokens)
            if forced := self.constraint.forced()[:most]:
                self._forced = True
                return forced
        if not self.worth.drafts():
            return []
        most = min(most, self.pace.next())
        drafts = self.drafter.propose(self._known, most, fork(self.sampler))[:most] if most else []
        if self._vocab is not None:
            drafts = drafts[: next((i for i, d in enumerate(drafts) if d >= self._vocab), len(drafts))]
        return drafts

    def _chosen_all(self, drafts: list[int], logits: mx.array) -> list[tuple[int, mx.array]]:
        """What the model says by logits (1, drafts + 1, vocab), up to the first token that isn't the draft's."""
        if self.sampler is greedy and not self.processors and self.constraint is None:
            chosen = mx.argmax(logits[0], axis=-1)
            mx.async_eval(chosen, logits, arrays_of(self.cache))
            tokens: list[int] = chosen.tolist()  # type: ignore[assignment]
            right = next((i for i, (a, b) in enumerate(zip(tokens, drafts, strict=False)) if a != b), len(drafts))
            found = [(token, logits[0, i]) for i, token in enumerate(tokens[: right + 1])]
        else:
            mx.async_eval(logits, arrays_of(self.cache))
            found = self._chosen_in_turn(drafts, logits)
        if drafts:
            self.proposed += len(drafts)
            self.accepted += len(found) - 1
            self.pace.judge(len(drafts), len(found) - 1)
        return found

    def _chosen_in_turn(self, drafts: list[int], logits: mx.array) -> list[tuple[int, mx.array]]:
        """One after the other, so that each is drawn with the random number and the history that are its own."""
        found: list[tuple[int, mx.array]] = []
        last, answer = self._known[-1], list(self.tokens)
        for i in range(len(drafts) + 1):
            chosen, row = self.choose(mx.array([last]), logits[:, i], answer)
            last = int(chosen.item())  # type: ignore[arg-type]
            answer.append(last)
            found.append((last, row.squeeze(0)))
            ended = self.constraint is not None and last in self.constraint.vocabulary.eos
            if i == len(drafts) or last != drafts[i] or ended:
                break
        return found

    def _take_back(self, count: int) -> None:
        """Forgets the last tokens that were read, or more where only a checkpoint is left to go back to."""
        if not self.cache.trim(count) and self._checkpoint is not None:
            self.cache.rewind(self._checkpoint)

    def _settle(self) -> None:
        """Of a pass whose tokens weren't all asked for, the cache keeps none that isn't listed."""
        excess = self._base + self.cache.offset - len(self._known)
        if excess > 0:
            self._take_back(excess)
        self._checkpoint = None


def make_iterator(ids, model: Any, processor: Any, parameters: Any, **settings: Any) -> TokenIterator:
    """The iterator for what a generation's parameters say of drafts: a plain one where they say nothing."""
    from .spec_pairs import drafter_of

    asked = parameters.draft is not None or parameters.prompt_lookup or getattr(model, "draft", None) is not None
    found = drafter_of(model, processor, parameters) if asked else None
    if found is None:
        return TokenIterator(ids, model, **settings)
    return SpeculativeIterator(ids, model, drafter=found[0], num_draft_tokens=found[1], **settings)
