"""Where drafts of the next tokens come from: a small model, or what the text itself said before.

A drafter only guesses. Whatever it says, the answer is the large model's own.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx

from ..cache import Checkpoint, State
from .checks import integer
from .sample import Sampler, greedy, log_softmax

CHUNK = 512  # tokens of a prompt that a draft model reads at once


class Drafter(Protocol):
    """Guesses how a list of tokens goes on; one object for one generation at a time."""

    def propose(self, tokens: list[int], most: int, sampler: Sampler) -> list[int]:
        """Up to ``most`` tokens after ``tokens``: all that is known, of which more is known at each call.

        sampler: draws as the large model's will, or takes the likeliest.
        """
        ...


class Tape:
    """What a model has read of a list of tokens, the end of which may turn out to be another one."""

    def __init__(self, model: Any):
        self.model = model
        self.state: State = model.make_cache()
        self.read: list[int] = []
        self._mark: tuple[int, Checkpoint] | None = None

    def mark(self, ahead: int) -> None:
        """A place to come back to, within the next ``ahead`` tokens."""
        self._mark = len(self.read), self.state.checkpoint(ahead)

    def keep(self, tokens: list[int]) -> None:
        """Forgets what isn't the beginning of ``tokens``, and so that one of them is left to be read."""
        same = next((i for i, (a, b) in enumerate(zip(self.read, tokens, strict=False)) if a != b), len(self.read))
        same = min(same, len(tokens) - 1)
        n = len(self.read) - same
        if n <= 0:
            return
        if not self.state.trim(n):
            same = 0
            if self._mark is not None and self._mark[0] <= len(self.read) - n:
                same = self._mark[0]
                self.state.rewind(self._mark[1])
            else:
                self.state = self.model.make_cache()
        del self.read[same:]

    def feed(self, tokens: Sequence[int]) -> mx.array:
        """Reads on; logits (1, vocab) after the last token."""
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            logits = self.model(mx.array([part]), cache=self.state)[:, -1]
            self.read += part
            if len(tokens) > CHUNK:
                mx.eval(self.state.arrays)
        return logits


class DraftModel:
    """A smaller model with the same vocabulary, whose memory is taken back where its guesses were wrong."""

    def __init__(self, model: Any):
        self._tape = Tape(model)

    def propose(self, tokens: list[int], most: int, sampler: Sampler) -> list[int]:
        tape = self._tape
        tape.keep(tokens)
        rest, drafts = tokens[len(tape.read) :], []
        logits = tape.feed(rest)
        tape.mark(most)
        while True:
            chosen = sampler(logits if sampler is greedy else log_softmax(logits))
            drafts.append(int(chosen.item()))  # type: ignore[arg-type]
            if len(drafts) == most:
                mx.eval(tape.state.arrays)
                return drafts
            logits = tape.feed(drafts[-1:])


class PromptLookup:
    """Finds where the last few tokens stood before, and guesses that what came then comes again.

    longest, shortest: how many tokens must agree; the longest agreement wins, and of those the latest.
    """

    def __init__(self, longest: int = 4, shortest: int = 2):
        self.shortest = integer("shortest", shortest, 1)
        self.longest = integer("longest", longest, shortest)
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def propose(self, tokens: list[int], most: int, sampler: Sampler) -> list[int]:
        self._index(tokens)
        for n in range(self.longest, self.shortest - 1, -1):
            at = self._after.get(tuple(tokens[-n:])) if len(tokens) > n else None
            if at is not None:
                return tokens[at : at + most]
        return []

    def _index(self, tokens: list[int]) -> None:
        """Notes what follows every run of tokens but the last, which nothing follows yet."""
        done = len(self._tokens)
        if tokens[:done] != self._tokens:
            done = 0
            self._after.clear()
        for end in range(max(done, 1), len(tokens)):
            for n in range(self.shortest, min(self.longest, end) + 1):
                self._after[tuple(tokens[end - n : end])] = end
        self._tokens = list(tokens)


class FirstOf:
    """Asks one drafter after another, until one has a guess."""

    def __init__(self, *drafters: Drafter):
        self.drafters = drafters

    def propose(self, tokens: list[int], most: int, sampler: Sampler) -> list[int]:
        return next(filter(None, (d.propose(tokens, most, sampler) for d in self.drafters)), [])


class Pace:
    """How many tokens to draft next, up to ``most``: more while they are accepted, none for a while if they aren't."""

    FIRST, PATIENCE, LONGEST_REST = 4, 3, 64

    def __init__(self, most: int):
        self.most = most
        self._next = min(self.FIRST, most)
        self._misses = self._rest = 0

    def next(self) -> int:
        """The length of the next draft; 0 to go without one."""
        if self._rest:
            self._rest -= 1
            return 0
        return self._next

    def judge(self, proposed: int, accepted: int) -> None:
        """Learns from a draft how many of its tokens were right."""
        if accepted == proposed:
            self._next = min(self.most, max(2 * proposed, self._next))
        else:
            self._next = max(1, min(self.most, accepted + 1))
        self._misses = 0 if accepted else self._misses + 1
        if self._misses >= self.PATIENCE:
            self._rest = min(2**self._misses, self.LONGEST_REST)


class Worth:
    """Whether drafts save time: the seconds that a token takes with them, against those without.

    Passes without a draft are asked for after every few with one, until there is something to compare with; where
    drafts turn out slower, so many tokens go without them before they are tried again, twice as many each time.
    """

    TRIAL, WITHOUT, REST, LONGEST_REST, MARGIN = 6, 3, 32, 512, 1.05

    def __init__(self):
        self._plain: float | None = None
        self._rest, self._left = self.REST, 0
        self._begin()

    def _begin(self) -> None:
        """A trial. Its first pass doesn't count: a draft model reads in it what it hasn't read yet."""
        self._passes, self._seconds, self._tokens = -1, 0.0, 0

    def drafts(self) -> bool:
        """Whether the next pass is to have a draft."""
        return not self._left

    def note(self, seconds: float, tokens: int, drafted: bool) -> None:
        """What a pass took, its draft included, and how many tokens it gave."""
        if not drafted:
            each = seconds / tokens
            self._plain = each if self._plain is None else 0.75 * self._plain + 0.25 * each
            self._left = max(self._left - 1, 0)
        else:
            self._passes += 1
            if self._passes:
                self._seconds, self._tokens = self._seconds + seconds, self._tokens + tokens
        if self._passes >= self.TRIAL and not self._left:
            self._judge()

    def _judge(self) -> None:
        if self._plain is None:
            self._left = self.WITHOUT
            return
        if self._seconds > self.MARGIN * self._plain * self._tokens:
            self._left, self._rest = self._rest, min(2 * self._rest, self.LONGEST_REST)
        else:
            self._rest = self.REST
        self._begin()


Forked = Callable[[], Sampler]


def fork(sampler: Sampler) -> Sampler:
    """A sampler that will draw what ``sampler`` draws next, as far as their distributions agree; or the greedy one.

    The same random numbers in both make a draft model agree with the large one more often than chance would.
    """
    make: Forked | None = getattr(sampler, "fork", None)
    return greedy if make is None else make()
