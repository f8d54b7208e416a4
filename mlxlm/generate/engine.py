"""The face of batches: `batch_generate` for a list of prompts, and an engine that requests may join at any time."""

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..cache import State
from ..errors import BusyError, GenerationError, MemoryLimitError
from ..memory import CacheCost, budget, size
from .batch import BatchLoop, BatchResponse, Generation, batchable, several_parameters
from .checks import integer, number, several
from .interrupt import DeferredInterrupt
from .loop import TokenIterator, arrays_of, context_size
from .memory import wired_memory
from .parameters import GenerateParameters
from .stream import GenerationStats, Piece, TextStream

UNKNOWN = 4096
"""Tokens to count on for an answer without a limit, where the model names no context."""


def batch_generate(model, processor, prompts, *, each: Sequence[dict[str, Any]] | None = None, max_batch: int = 16,
                   configuration=None, **parameters) -> BatchResponse:
    """The answers to several prompts, computed together; each is what `generate` would give for its prompt alone.

    prompts: a list; each a text, a list of messages, or token ids. parameters: those of `stream_generate`, for all;
    ``max_tokens`` may be a list. each: a dict of parameters for each prompt, above the common ones. max_batch: how many
    prompts share a pass. Raises GenerationError; no answer is begun where an argument is wrong.
    """
    if prompts is None:
        raise GenerationError("not a list", where="prompts", found="None", expected="a list of prompts")
    listed = several("prompts", prompts, "prompts")
    keywords = several_parameters(len(listed), dict(parameters), each)
    texts: list[list[str]] = [[] for _ in listed]
    last: dict[int, Piece] = {}
    errors: list[Exception] = []
    loop = BatchLoop(model, max_batch=max_batch)

    def deliver(i: int, piece: Piece) -> None:
        texts[i].append(piece.answer)
        last[i] = replace(piece, logits=None)

    for i, prompt in enumerate(listed):
        stream = _stream(model, processor, prompt, keywords[i], configuration)
        loop.add(Generation(stream, lambda piece, i=i: deliver(i, piece), errors.append))
    interrupt = DeferredInterrupt()
    with wired_memory():
        while loop.busy and not errors:
            with interrupt:
                loop.step()
            interrupt.deliver()
    mx.clear_cache()
    if errors:
        raise errors[0]
    return BatchResponse(["".join(parts) for parts in texts], [last[i] for i in range(len(listed))])


def _stream(model, processor, prompt, keywords: dict[str, Any], configuration) -> TextStream:
    # A batch's passes are full without guesses.
    parameters = replace(GenerateParameters.of(keywords), draft=False, prompt_lookup=False)
    if parameters.cache is not None:
        if not isinstance(parameters.cache, State):
            raise GenerationError("a batch can't go on from this cache", where="cache",
                                  found=type(parameters.cache).__name__, expected="what model.make_cache() returns")
        # The rows of a batch live in a state of their own: the caller's stays where it is.
        parameters = replace(parameters, cache=parameters.cache.copy())
    return TextStream(model, processor, prompt, parameters, configuration)


class Request:
    """One answer that an engine works on: iterate over its `Piece`s, in a plain loop or an async one.

    Each piece is given once, whoever asks first. `cancel` may be called from any thread.
    """

    def __init__(self, stream: TextStream):
        self._stream = stream
        self._pieces: queue.SimpleQueue[Piece | Exception | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._over = False

    @property
    def stats(self) -> GenerationStats:
        return self._stream.stats

    @property
    def tokens(self) -> list[int]:
        """The ids so far."""
        return list(self._stream.tokens)

    def cancel(self) -> None:
        """Ends the answer before its next token; its last piece says "cancelled"."""
        self._cancelled.set()

    def result(self, timeout: float | None = None) -> str:
        """The whole text that is still to come. Raises TimeoutError if it isn't there in time; the answer goes on."""
        end = None if timeout is None else time.monotonic() + timeout
        parts: list[str] = []
        while (piece := self._next(end)) is not None:
            parts.append(piece.answer)
        return "".join(parts)

    def __iter__(self) -> Iterator[Piece]:
        while (piece := self._next(None)) is not None:
            yield piece

    async def __aiter__(self) -> AsyncIterator[Piece]:
        arrived = asyncio.Event()
        with self._lock:
            self._waiter = asyncio.get_running_loop(), arrived
        while True:
            arrived.clear()
            try:
                piece = self._opened(self._pieces.get_nowait())
            except queue.Empty:
                await arrived.wait()
                continue
            if piece is None:
                return
            yield piece

    def _next(self, end: float | None) -> Piece | None:
        try:
            found = self._pieces.get(timeout=None if end is None else max(end - time.monotonic(), 0))
        except queue.Empty as error:
            raise TimeoutError("the answer isn't complete yet") from error
        return self._opened(found)

    def _opened(self, found: Piece | Exception | None) -> Piece | None:
        if found is None:
            self._pieces.put(None)  # whoever else asks learns of the end as well
            return None
        if isinstance(found, Exception):
            self._pieces.put(None)
            raise found
        return found

    def _put(self, item: Piece | Exception) -> None:
        self._pieces.put(item)
        if isinstance(item, Exception) or item.finish_reason is not None:
            self._over = True
            self._pieces.put(None)
        with self._lock:
            waiter = self._waiter
        if waiter is not None and not waiter[0].is_closed():
            waiter[0].call_soon_threadsafe(waiter[1].set)


class BatchEngine:
    """Answers requests that come at any time, from any thread, in passes that they share.

    max_batch: rows of a pass. max_queue: requests that may wait for a place. prefill_tokens: prompt tokens read between
    two passes, so that a long prompt doesn't keep the others waiting. memory_budget: bytes ("4G") that the caches of
    the requests in work may come to take; others wait. None for what is free now, "off" for no bound.

    Use it in a ``with`` block, or call `close`. One thread of its own computes, begun with the first request.
    """

    def __init__(self, model, processor, *, max_batch: int = 16, max_queue: int = 256, prefill_tokens: int = 512,
                 memory_budget: int | str | None = None, configuration=None):
        self.model, self.processor, self.configuration = model, processor, configuration
        found = budget(memory_budget)
        self._loop = BatchLoop(model, max_batch=max_batch, prefill_tokens=prefill_tokens,
                               budget=math.inf if found is None else found)
        self._cost = CacheCost(model) if found is not None and batchable(model) else None
        self.max_queue = integer("max_queue", max_queue, 1)
        self._arrived: list[Generation] = []
        self._open = 0
        self._state = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "BatchEngine":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def submit(self, prompt, *, timeout: float | None = None, **parameters) -> Request:
        """Puts a prompt in line and returns its `Request`; ``parameters`` are those of `stream_generate`.

        timeout: seconds from now after which the answer ends, with "timeout" for a reason. Raises GenerationError for
        wrong arguments, BusyError where too many wait already.
        """
        deadline = None if timeout is None else time.monotonic() + number("timeout", timeout, 0)
        with self._state:
            self._check_room()
            self._open += 1  # held while the prompt is made ready, outside of the lock
        try:
            request = Request(_stream(self.model, self.processor, prompt, parameters, self.configuration))
            cost = self._price(request._stream.source)
        except BaseException:
            self._left()
            raise
        source = request._stream.source
        mx.eval(arrays_of(source.cache))  # another thread goes on with it, and can't evaluate what this one left
        asked = source.cancelled
        source.cancelled = lambda: request._cancelled.is_set() or asked()
        generation = Generation(request._stream, lambda piece: self._deliver(request, piece),
                                lambda error: self._deliver(request, error), deadline, cost)
        with self._state:
            if self._closed:
                self._open -= 1
                raise GenerationError("the engine is closed")
            self._arrived.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mlxlm-batch", daemon=True)
                self._thread.start()
            self._state.notify_all()
        return request

    def _price(self, source: TokenIterator) -> int:
        """Bytes that a request's cache may come to take. Raises MemoryLimitError if they are more than there are."""
        if self._cost is None:
            return 0
        answer = source.limit if source.limit < math.inf else context_size(self.model) or UNKNOWN
        cost = self._cost.bytes(source.cached_tokens + len(source.prompt) + int(answer), source.chunk,
                                source.policy.max_size)
        if cost > self._loop.budget:
            raise MemoryLimitError(
                "this request alone takes more than the engine may", where="max_tokens",
                found=f"{size(cost)} of cache for {len(source.prompt)} tokens and {int(answer)} more",
                expected=f"at most {size(self._loop.budget)}", hint="Ask for fewer tokens, or raise memory_budget.")
        return cost

    def generate(self, prompt, **parameters) -> str:
        """The whole answer to one prompt, computed along with whatever else is asked."""
        return self.submit(prompt, **parameters).result()

    def close(self, wait: bool = True) -> None:
        """Takes no more requests; with ``wait`` those in line are answered first, else they end as cancelled."""
        with self._state:
            self._closed = True
            self._drop = not wait
            self._state.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    _drop = False

    @property
    def open_requests(self) -> int:
        """Requests that wait or are being answered."""
        return self._open

    def _check_room(self) -> None:
        if self._closed:
            raise GenerationError("the engine is closed")
        most = self.max_queue + self._loop.max_batch
        if self._open >= most:
            raise BusyError("too many requests", found=f"{self._open} being answered or in line",
                            expected=f"at most {most}", hint="Try again later, or raise max_queue.")

    def _left(self) -> None:
        with self._state:
            self._open -= 1

    def _deliver(self, request: Request, item: Piece | Exception) -> None:
        if isinstance(item, Exception) or item.finish_reason is not None:
            self._left()
        request._put(item)

    def _work(self) -> None:
        """The thread: steps while there is work, sleeps while there is none."""
        with ExitStack() as active:
            wired = False
            while self._wait_for_work():
                if not wired:
                    active.enter_context(wired_memory())
                    wired = True
                try:
                    self._loop.step()
                except Exception as error:  # broad: whatever it is, nobody may wait forever
                    self._loop.fail(error)
                if not self._loop.busy:
                    mx.clear_cache()
                    active.close()
                    wired = False

    def _wait_for_work(self) -> bool:
        with self._state:
            while not self._arrived and not self._loop.busy:
                if self._closed:
                    return False
                self._state.wait()
            arrived, self._arrived = self._arrived, []
            drop = self._closed and self._drop
        for generation in arrived:
            self._loop.add(generation)
        if drop:
            self._loop.cancel()
            return False
        return True
