"""Several generations in one: a pass of the model serves all of them, and they come and go between passes.

A prompt is read alone, in chunks between the others' steps; then its row joins the rest. Every generation keeps its own
sampler, penalties, constraint, stops and text, so that it writes what it would have written alone.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..cache import State
from ..errors import GenerationError
from .checks import integer
from .constrain import masks
from .loop import CLEAR_EVERY, TokenIterator, arrays_of
from .sample import greedy
from .stream import FinishReason, Piece, TextStream

Deliver = Callable[[Piece], Any]
Fail = Callable[[Exception], Any]


class Generation:
    """One request of a batch: the stream that makes its pieces, and who gets them.

    ``deadline`` is a time of ``time.monotonic``; from then on, as once it is cancelled, no further token is drawn.
    """

    def __init__(self, stream: TextStream, deliver: Deliver, fail: Fail, deadline: float | None = None, cost: int = 0):
        self.stream, self.deliver, self._fail, self.deadline = stream, deliver, fail, deadline
        self.cost = cost  # bytes that its cache may come to take
        self.ended = False

    @property
    def source(self) -> TokenIterator:
        return self.stream.source

    @property
    def last(self) -> bool:
        """Whether the token in flight is the last that may come."""
        return len(self.source.tokens) + 1 >= self.source.limit

    def take(self, token: int, logits: mx.array) -> None:
        """Delivers what a token makes, if anyone still waits for it."""
        if not self.ended:
            self.source.tokens.append(token)
            self._give(lambda: self.stream.take(token, logits))

    def finish(self, reason: FinishReason) -> None:
        """Ends without another token."""
        if not self.ended:
            self._give(lambda: self.stream.end(reason))
            self.ended = True

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self.ended = True
            self._fail(error)

    def look(self) -> bool:
        """Whether it goes on; ends it if it was cancelled or its time is up."""
        try:
            cancelled = self.source.cancelled()
        except Exception as error:  # broad: the caller's own function, whose error is the caller's alone
            self.fail(error)
            return False
        if cancelled:
            self.finish("cancelled")
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self.finish("timeout")
        return not self.ended

    def _give(self, make: Callable[[], Piece]) -> None:
        try:
            piece = make()
            self.ended = piece.finish_reason is not None
            self.deliver(piece)
        except Exception as error:  # broad: what goes wrong with one answer must not reach the others
            self.fail(error)


class Ready(NamedTuple):
    """A generation whose prompt was read, with its first token (1,) and the logits (vocab,) of it."""

    generation: Generation
    token: mx.array
    logits: mx.array


class Lane:
    """The rows that share a state: one pass gives each of them its next token."""

    def __init__(self, model: Any):
        self.model = model
        self.rows: list[Generation] = []
        self.state: Any = None
        self._tokens = mx.array([], mx.int32)
        self._logits: list[mx.array] = []

    @property
    def packs(self) -> bool:
        """Whether the row here packs its cache as it grows."""
        return any(row.source.policy.bits for row in self.rows)

    def join(self, ready: Sequence[Ready]) -> bool:
        """Takes generations in whose prompts were read; False if caches here are then of several kinds."""
        states = ([self.state] if self.rows else []) + [one.generation.source.cache for one in ready]
        if len(states) > 1 and not all(isinstance(state, State) for state in states):
            return False
        try:
            self.state = State.merge(states) if len(states) > 1 else states[0]
        except GenerationError:
            return False
        for generation, _, logits in ready:
            generation.source.cache = None
            self.rows.append(generation)
            self._logits.append(logits)
        self._tokens = mx.concatenate([self._tokens, *(one.token.astype(mx.int32) for one in ready)])
        mx.async_eval(self._tokens, arrays_of(self.state))
        return True

    def step(self) -> None:
        """Draws a token for each row, and delivers those drawn before while the device works."""
        going = [i for i, row in enumerate(self.rows) if row.look() and not row.last]
        ahead = self._forward(going) if going else None
        for row, token, logits in zip(self.rows, self._tokens.tolist(), self._logits, strict=True):  # type: ignore
            row.take(int(token), logits)
        rows = [self.rows[i] for i in going]
        kept = [i for i, row in enumerate(rows) if not row.ended]
        self.rows = [rows[i] for i in kept]
        if ahead is None or not kept:
            self.state, self._tokens, self._logits = None, mx.array([], mx.int32), []
            return
        tokens = self._pending
        if len(kept) < len(rows):
            self.state, ahead, tokens = self.state.filter(kept), ahead[mx.array(kept)], tokens[mx.array(kept)]
        self._choose(tokens, ahead)

    def _forward(self, going: list[int]) -> mx.array:
        """Logits (rows, vocab) of the rows that go on, being computed."""
        self._pending = self._tokens
        if len(going) < len(self.rows):
            self.state, self._pending = self.state.filter(going), self._tokens[mx.array(going)]
        logits = self.model(self._pending[:, None], cache=self.state)[:, -1, :]
        self.rows[going[0]].source.policy.apply(self.state)
        mx.async_eval(logits, arrays_of(self.state))
        return logits

    def _choose(self, tokens: mx.array, logits: mx.array) -> None:
        """Each row's next token, by its own means."""
        sources = [row.source for row in self.rows]
        if all(s.sampler is greedy and not s.processors and s.constraint is None for s in sources):
            self._tokens, self._logits = mx.argmax(logits, axis=-1).astype(mx.int32), list(logits)
        else:
            allowed = self._allowed()
            drawn = [self._drawn(row, i, tokens, logits, allowed) for i, row in enumerate(self.rows)]
            self._tokens = mx.concatenate([token.astype(mx.int32) for token, _ in drawn])
            self._logits = [one for _, one in drawn]
        mx.async_eval(self._tokens, *self._logits, *(s.history for s in sources if s.processors), arrays_of(self.state))

    def _allowed(self) -> dict[int, np.ndarray]:
        """The masks of the rows that have a constraint, by row; made side by side."""
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(self.rows):
            if row.source.constraint is not None:
                try:
                    row.source.constraint.follow(row.source.tokens)
                    groups.setdefault(id(row.source.constraint.vocabulary), []).append(i)
                except GenerationError as error:
                    row.fail(error)
        found: dict[int, np.ndarray] = {}
        for group in groups.values():
            try:
                found |= zip(group, masks([self.rows[i].source.constraint for i in group]), strict=True)
            except GenerationError:
                continue  # each row tells its own error when it asks by itself
        return found

    def _drawn(self, row: Generation, i: int, tokens: mx.array, logits: mx.array,
               allowed: dict[int, np.ndarray]) -> tuple[mx.array, mx.array]:
        """A row's next token (1,) and the logits (vocab,) that it was drawn from; any token where that fails."""
        own = logits[i: i + 1]
        if not row.ended:
            try:
                token, own = row.source.choose(tokens[i: i + 1], own, row.source.tokens, allowed.get(i))
                return token, own.squeeze(0)
            except Exception as error:  # broad: a caller's sampler or processor, whose error is that caller's alone
                row.fail(error)
        return tokens[i: i + 1], own.squeeze(0)

    def fail(self, error: Exception) -> None:
        for row in self.rows:
            row.fail(error)
        self.rows, self.state = [], None
        self._tokens, self._logits = mx.array([], mx.int32), []


class BatchLoop:
    """Runs generations on one model, by `step`; for one thread.

    ``max_batch`` bounds the rows of a pass, ``prefill_tokens`` the prompt tokens that are read between two passes,
    ``budget`` the bytes that the generations' costs add up to.
    """

    def __init__(self, model: Any, *, max_batch: int = 16, prefill_tokens: int = 512, budget: float = math.inf):
        self.model = model
        self.max_batch = integer("max_batch", max_batch, 1)
        self.prefill_tokens = integer("prefill_tokens", prefill_tokens, 1)
        self.budget = budget
        self.waiting: deque[Generation] = deque()
        self.lanes: list[Lane] = []
        self._reading: tuple[Generation, Iterator[int]] | None = None
        self._done = 0  # tokens read of it
        self._ready: list[Ready] = []
        self._alone = not batchable(model)
        self._steps = 0

    @property
    def running(self) -> int:
        """Generations whose prompt was read, or is being read."""
        return len(self._begun())

    @property
    def taken(self) -> int:
        """Bytes that the running generations may come to take."""
        return sum(generation.cost for generation in self._begun())

    def _begun(self) -> list[Generation]:
        rows = [row for lane in self.lanes for row in lane.rows]
        return [*rows, *(one.generation for one in self._ready), *([self._reading[0]] if self._reading else [])]

    def _has_room(self) -> bool:
        running = self.running
        return running < self.max_batch and (not running or self.taken + self.waiting[0].cost <= self.budget)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, generation: Generation) -> None:
        """Puts a generation in line."""
        generation.source.chunk = min(generation.source.chunk, self.prefill_tokens)
        self.waiting.append(generation)

    def step(self) -> None:
        """Reads some of the prompts in line, then draws a token for every row."""
        self._read()
        for lane in self.lanes:
            try:
                lane.step()
            except Exception as error:  # broad: a pass that fails ends its rows; the next ones may fit
                lane.fail(error)
        self.lanes = [lane for lane in self.lanes if lane.rows]
        self._steps += 1
        if self._steps % CLEAR_EVERY == 0:
            mx.clear_cache()

    def fail(self, error: Exception) -> None:
        """Ends all generations with an error."""
        for generation in [*self.waiting, *self._begun()]:
            generation.fail(error)
        self._forget()

    def _forget(self) -> None:
        self.waiting.clear()
        self.lanes, self._ready, self._reading = [], [], None

    def cancel(self) -> None:
        """Ends all generations where they are."""
        for generation in [*self.waiting, *self._begun()]:
            generation.finish("cancelled")
        self._forget()

    def _read(self) -> None:
        left = self.prefill_tokens
        for generation in [g for g in self.waiting if not g.look()]:
            self.waiting.remove(generation)
        while left > 0 and (self._reading or (self.waiting and self._has_room())):
            if self._reading is None:
                generation = self.waiting.popleft()
                generation.stream.begin()
                self._reading, self._done = (generation, generation.source.prefill()), 0
            left -= self._read_chunk(*self._reading)
        ready, self._ready = self._ready, []
        self._seat(ready)

    def _read_chunk(self, generation: Generation, chunks: Iterator[int]) -> int:
        """Reads a chunk of a prompt, or draws the first token after the last of them; returns the tokens read."""
        try:
            if generation.look() and (end := next(chunks, None)) is not None:
                read, self._done = end - self._done, end
                return max(read, 1)
            self._reading = None
            if generation.look():
                self._ready += self._first(generation)
        except Exception as error:  # broad: a prompt that can't be read is its caller's concern alone
            self._reading = None
            generation.fail(error)
        return 1

    def _first(self, generation: Generation) -> list[Ready]:
        """The generation with its first token on the way; nothing where it is over."""
        if generation.source.limit <= 0:
            generation.finish("length")
            return []
        source = generation.source
        token, logits = source.first()
        if source.reuse is not None:
            mx.eval(arrays_of(source.cache))
            source.reuse.finish(source.cache, [])  # what follows is in a state that others share
        return [Ready(generation, token, logits)]

    def _seat(self, ready: list[Ready]) -> None:
        """Gives generations their rows: all in one lane if they can share it, since joining copies what is there."""
        # What packs its cache does so at a length of its own.
        alone = [self._alone or bool(one.generation.source.policy.bits) for one in ready]
        single = [one for one, own in zip(ready, alone, strict=True) if own]
        shared = [one for one, own in zip(ready, alone, strict=True) if not own]
        lanes = [lane for lane in self.lanes if not lane.packs]
        if shared and any(lane.join(shared) for lane in lanes):
            shared = []
        for group in self._groups(shared) + [[one] for one in single]:
            self.lanes.append(Lane(self.model))
            self.lanes[-1].join(group)

    def _groups(self, ready: list[Ready]) -> list[list[Ready]]:
        """Those that found no lane, parted by the kinds of their caches."""
        groups: dict[tuple, list[Ready]] = {}
        for one in ready:
            cache = one.generation.source.cache
            kinds = tuple((type(c), c.window, c.keep) for c in cache) if isinstance(cache, State) else (id(one),)
            groups.setdefault(kinds, []).append(one)
        return list(groups.values())


def batchable(model: Any) -> bool:
    """Whether rows of different lengths may share a pass: not where a rope turns by the length of the context."""
    if not isinstance(model, nn.Module):
        return False
    parts = [part for module in model.modules() for part in vars(module).values()]
    return not any(getattr(part, "by_length", False) is True for part in parts)


@dataclass(frozen=True)
class BatchResponse:
    """The answers to several prompts, in their order: ``texts``, and the last piece of each with why and how fast."""

    texts: list[str]
    last: list[Piece]

    @property
    def finish_reasons(self) -> list[FinishReason | None]:
        return [piece.finish_reason for piece in self.last]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> str:
        return self.texts[i]


def several_parameters(count: int, parameters: dict[str, Any], each: Sequence[dict[str, Any]] | None
                       ) -> list[dict[str, Any]]:
    """The keywords of each of ``count`` generations; ``max_tokens`` may be a list, as in mlx-lm."""
    if each is not None and len(each) != count:
        raise GenerationError("not one for each prompt", where="each", found=f"{len(each)} entries",
                              expected=f"{count}, one a prompt")
    limits = parameters.pop("max_tokens", 256)
    if isinstance(limits, (list, tuple)) and len(limits) != count:
        raise GenerationError("not one for each prompt", where="max_tokens", found=f"{len(limits)} numbers",
                              expected=f"{count}, one a prompt")
    limits = list(limits) if isinstance(limits, (list, tuple)) else [limits] * count
    return [{"max_tokens": limit, **parameters, **(each[i] if each else {})} for i, limit in enumerate(limits)]
