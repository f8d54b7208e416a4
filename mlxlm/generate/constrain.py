"""Constraints: which tokens a grammar allows next, as a mask on the logits that can also be taken back.

A constraint belongs to one generation. The grammar engine is llguidance; its masks are made on the host while the
device works on the logits that they are for.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import GenerationError
from .constrain_formats import as_grammars
from .constrain_vocabulary import Vocabulary, vocabulary_of


class Constraint:
    """A grammar over one answer's tokens, and a logits processor: (tokens, logits (1, vocab)) -> logits.

    ``accept`` and ``rollback`` move it by hand, for speculation: ``mask`` is for the token after those accepted. An EOS
    token is allowed just where the grammar is satisfied; after it nothing is. Not for two threads at once.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str):
        from llguidance import LLMatcher

        self.vocabulary = vocabulary
        self._matcher = LLMatcher(vocabulary.matcher_tokenizer, grammar, log_level=0)
        self._check(self._matcher)
        self.accepted: list[int] = []
        self._prompt: int | None = None
        self._ended = False
        if not self.mask().any():
            raise GenerationError("no token of this model can begin such an answer", where="response_format")

    @staticmethod
    def _check(matcher: Any) -> None:
        if matcher.is_error():
            problem = matcher.get_error().strip().split("\n<state>")[0][:500]
            raise GenerationError(f"the answer can't be held to this: {problem}", where="response_format")

    @property
    def finished(self) -> bool:
        """Whether nothing but an EOS token can follow."""
        return self._ended or self._matcher.is_stopped()

    @property
    def satisfied(self) -> bool:
        """Whether the answer so far is a whole one."""
        return self._ended or self._matcher.is_accepting()

    def mask(self) -> np.ndarray:
        """Booleans (tokens of the vocabulary,): what may come next. Raises GenerationError past the engine's limits."""
        if self._ended:
            allowed = np.zeros(len(self.vocabulary.tokens), bool)
        else:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, bitorder="little")[: len(self.vocabulary.tokens)].astype(bool)
            if self._matcher.is_error():
                self._check(self._matcher)
        return allowed

    def apply(self, logits: mx.array) -> mx.array:
        """logits (1, vocab) with minus infinity for what the grammar doesn't allow next."""
        return masked(logits, self.mask())

    def accept(self, token: int) -> bool:
        """Takes the next token; False, and no change, where the grammar doesn't allow it."""
        if self._ended:
            return False
        if token in self.vocabulary.eos:
            self._ended = self._matcher.is_accepting()
            taken = self._ended
        else:
            taken = self._matcher.try_consume_tokens([token]) == 1
        if taken:
            self.accepted.append(token)
        return taken

    def rollback(self, count: int) -> None:
        """Takes the last ``count`` accepted tokens back."""
        if count <= 0:
            return
        if count > len(self.accepted):
            raise GenerationError("more tokens to take back than were accepted", where="rollback", found=count,
                                  expected=f"at most {len(self.accepted)}")
        del self.accepted[len(self.accepted) - count:]
        # The engine doesn't count an EOS token.
        self._matcher.rollback(count - int(self._ended))
        self._ended = False

    def forced(self) -> list[int]:
        """The tokens that the grammar leaves no choice about from here: a draft that is never refused."""
        return [] if self._ended else list(self._matcher.compute_ff_tokens())

    def copy(self) -> "Constraint":
        """A constraint in the same place that goes its own way."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._matcher, new.accepted = self._matcher.deep_copy(), list(self.accepted)
        return new

    def follow(self, tokens: Sequence[int]) -> None:
        """Moves to where exactly ``tokens`` are accepted: takes back what differs, accepts the rest."""
        same = len(self.accepted)
        if list(tokens[:same]) != self.accepted:
            pairs = enumerate(zip(self.accepted, tokens, strict=False))
            same = next((i for i, (old, new) in pairs if old != new), min(same, len(tokens)))
        self.rollback(len(self.accepted) - same)
        for token in tokens[same:]:
            if not self.accept(int(token)):
                raise GenerationError("a token that the grammar doesn't allow was chosen", where="response_format",
                                      found=f"token id {int(token)}", hint="A sampler or processor overrode the mask.")

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """As a logits processor; the tokens of the first call are the prompt."""
        known = np.asarray(tokens)  # first, lest on a CPU it waits for the logits
        mx.async_eval(logits)
        self._prompt = len(known) if self._prompt is None else self._prompt
        self.follow(known[self._prompt:].tolist())
        return self.apply(logits)


def masked(logits: mx.array, allowed: np.ndarray) -> mx.array:
    """logits (..., vocab) where ``allowed`` (..., tokens), minus infinity elsewhere and past the tokenizer's ids."""
    width = logits.shape[-1]
    if allowed.shape[-1] != width:
        fitted = np.zeros((*allowed.shape[:-1], width), bool)
        shared = min(width, allowed.shape[-1])
        fitted[..., :shared] = allowed[..., :shared]
        allowed = fitted
    return mx.where(mx.array(allowed), logits, mx.array(-mx.inf, logits.dtype))


def make_constraint(tokenizer: Any, response_format: Any, ends: Iterable[int] | None = None) -> Constraint:
    """A constraint for one generation.

    response_format: see `constrain_formats.as_grammars`. ends: the ids that end an answer, the tokenizer's EOS tokens
    if not given. Raises GenerationError where the format isn't understood, can't be satisfied, or has parts that
    can't be enforced.
    """
    vocabulary = vocabulary_of(tokenizer, tokenizer.eos_token_ids if ends is None else ends)
    grammars = as_grammars(response_format)
    if not vocabulary.drops_space:
        return Constraint(vocabulary, grammars.text())
    probe = Constraint(vocabulary, grammars.text())
    allowed = np.nonzero(probe.mask())[0]
    # A space in front of the first token isn't shown. So that what is shown is what the grammar says, the space must
    # be there where the answer may begin with one of its own, and may be there elsewhere.
    shown = any(vocabulary.tokens[i].startswith(b" ") for i in allowed)
    return Constraint(vocabulary, grammars.after('" "' if shown else '" "?').text())


@cache
def _executor() -> Any:
    """The engine's pool of threads; it holds nothing of any generation."""
    from llguidance import LLExecutor

    return LLExecutor()


def masks(constraints: Sequence[Constraint]) -> np.ndarray:
    """The masks of several constraints on one vocabulary, (constraints, tokens) booleans, made side by side."""
    if len(constraints) == 1 or any(c._ended for c in constraints):
        return np.stack([c.mask() for c in constraints])
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

    tokens = len(constraints[0].vocabulary.tokens)
    bits = allocate_token_bitmask(len(constraints), tokens)
    fill_next_token_bitmask_par(_executor(), [(c._matcher, i) for i, c in enumerate(constraints)], bits)
    for constraint in constraints:
        constraint._check(constraint._matcher)
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :tokens].astype(bool)
