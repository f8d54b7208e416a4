"""The loop under every generation: chunked prefill, then one token in flight while the next is computed.

It needs nothing of a model but the contract ``model(tokens, cache=cache) -> logits`` and
``model.make_cache()``, and runs in whichever thread iterates it: MLX's streams belong to threads, so nothing
unevaluated outlives a step.
"""
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..cache import CachePolicy, State
from ..errors import GenerationError
from ..memory import check_prompt
from .checks import function, integer, several, shown
from .constrain import masked
from .interrupt import DeferredInterrupt
from .logits import LogitsProcessor
from .memory import wired_memory
from .passes import Passes
from .sample import Sampler, greedy, log_softmax

CLEAR_EVERY = 256
"""Tokens between two calls of ``mx.clear_cache``: buffers of outgrown shapes go back to the system."""


def generate_step(prompt, model, *, max_tokens: int | None = 256, sampler: Sampler | None = None,
                  logits_processors: Sequence[LogitsProcessor] | None = None, cache=None,
                  max_kv_size: int | None = None, kv_bits: int | None = None, kv_group_size: int = 64,
                  quantized_kv_start: int = 5000, prefill_step_size: int = 512,
                  prompt_progress_callback: Callable[[int, int], Any] | None = None,
                  beyond_context: bool = False) -> Iterator[tuple[int, mx.array]]:
    """Yields each token with its float32 log-probabilities, shape (vocab,), lazily computed.

    The arguments are `TokenIterator`'s; errors show up here, before the first token is asked for.
    """
    tokens = TokenIterator(
        prompt, model, max_tokens=max_tokens, sampler=sampler, logits_processors=logits_processors,
        cache=cache, max_kv_size=max_kv_size, kv_bits=kv_bits, kv_group_size=kv_group_size,
        quantized_kv_start=quantized_kv_start, prefill_step_size=prefill_step_size,
        prompt_progress_callback=prompt_progress_callback, beyond_context=beyond_context)
    return ((token, log_softmax(logits)) for token, logits in tokens)


class TokenIterator:
    """Iterates over ``(token, logits)``; logits (vocab,) are evaluated, and processed where asked.

    prompt: token ids: list, tuple, numpy or mx array of shape (length,) or (1, length).
    max_tokens: -1 or None for no limit but the context; 0 only reads the prompt into the cache.
    sampler: log-probabilities (1, vocab) -> token ids (1,); greedy without one.
    logits_processors: called in order with (tokens so far (n,), logits (1, vocab)), prompt included.
    cache: what ``model.make_cache`` made, holding the tokens before this prompt; it advances in place.
    max_kv_size: makes rotating caches of that many tokens where the model has full ones.
    kv_bits: packs full caches to 2 to 8 bits in groups of ``kv_group_size``, once they hold ``quantized_kv_start``
        tokens; `mlxlm.cache.cache_status` tells which, and why not the others.
    prompt_progress_callback: called with (tokens processed, prompt tokens).
    beyond_context: take a prompt longer than the ``max_position_embeddings`` of the model's config.
    cancel: asked between steps; once it says True the iteration ends.
    media: the `Inputs` of which the prompt's ids are a part, where it has images or videos.
    constraint: a `Constraint` that every token is held to, applied after the processors.
    reuse: a `Reuse`, which keeps what is read here for later prompts.
    before: ids that the cache has read already, as far as they are known: processors and drafts look at them too.
    memory_limit: bytes that MLX may hold ("12G"), or "off": a prompt that has no room is refused.

    ``tokens`` lists the ids yielded so far. When iteration stops, for whatever reason, the cache holds the
    first ``cache.offset - cached_tokens`` ids of the prompt and ``tokens`` together: Ctrl-C waits for the end
    of a step. Raises GenerationError for bad arguments.
    """

    def __init__(self, prompt, model: Any, *, max_tokens: int | None = 256, sampler: Sampler | None = None,
                 logits_processors: Sequence[LogitsProcessor] | None = None, cache=None,
                 max_kv_size: int | None = None, kv_bits: int | None = None, kv_group_size: int = 64,
                 quantized_kv_start: int = 5000, prefill_step_size: int = 512,
                 prompt_progress_callback: Callable[[int, int], Any] | None = None,
                 beyond_context: bool = False, cancel: Callable[[], bool] | None = None, constraint: Any = None,
                 media: Any = None, reuse: Any = None, before: Sequence[int] | np.ndarray = (),
                 memory_limit: int | str | None = None):
        if not callable(model) or not hasattr(model, "make_cache"):
            raise GenerationError("not a model", where="model", found=shown(model),
                                  expected="the first of the two things that mlxlm.load returns")
        self.model: Any = model
        self.sampler = function("sampler", sampler) or greedy
        self.processors = several("logits_processors", logits_processors, "functions")
        for process in self.processors:
            function("logits_processors", process)
        self.chunk = integer("prefill_step_size", prefill_step_size, 1)
        self.progress = function("prompt_progress_callback", prompt_progress_callback) or (lambda done, total: None)
        self.cancelled = function("cancel", cancel) or (lambda: False)
        self.constraint, self.media, self.reuse = constraint, media, reuse
        self.prompt = token_ids(prompt, vocab_size(model) if media is None else None, places=media is not None)
        self.before = np.asarray(before, np.int32)
        self.cache = _make_cache(model, max_kv_size) if cache is None else cache
        self.cached_tokens = offset(self.cache)
        self.policy = CachePolicy(kv_bits, kv_group_size, quantized_kv_start, max_kv_size)
        if isinstance(self.cache, State):
            self.cache.policy = self.policy
        bounded = max_kv_size is None and not beyond_context
        self.limit = self._token_limit(max_tokens, context_size(model) if bounded else None)
        self._check_memory(memory_limit, max_kv_size)
        self.tokens: list[int] = []
        self._begun = False
        self._interrupt = DeferredInterrupt()

    def __iter__(self) -> Generator[tuple[int, mx.array], None, None]:
        try:
            with wired_memory():
                yield from self._tokens()
        finally:
            # Another thread may go on with this cache, and could not evaluate what this one left undone.
            mx.eval(arrays_of(self.cache))
            if self.reuse is not None:
                self.reuse.finish(self.cache, self.tokens)
            mx.clear_cache()
            self._interrupt.deliver()

    def _token_limit(self, max_tokens: int | None, context: int | None) -> float:
        limit = integer("max_tokens", -1 if max_tokens is None else max_tokens, -1)
        limit = float("inf") if limit < 0 else limit
        if context is None:
            return limit
        room = context - self.cached_tokens - len(self.prompt)
        if room < 0:
            before = f" after {self.cached_tokens} in the cache" if self.cached_tokens else ""
            raise GenerationError(
                "longer than the model's context", where="prompt", found=f"{len(self.prompt)} tokens{before}",
                expected=f"at most {context} in all",
                hint="Shorten it, pass max_kv_size to forget the oldest tokens, or try beyond_context=True.")
        # The last token is drawn from the logits at the last position, and needs no position itself.
        return min(limit, room + 1)

    def _check_memory(self, limit: int | str | None, window: int | None) -> None:
        if isinstance(self.cache, State):
            bits, group = self.policy.bits, self.policy.group_size
            ratio = (bits + 32 / group) / 16 if bits else 1.0
            check_prompt(self.model, len(self.prompt), cached=self.cached_tokens, chunk=self.chunk,
                         more=self.limit, window=window, ratio=ratio, limit=limit)

    def _tokens(self) -> Iterator[tuple[int, mx.array]]:
        for _ in self.prefill():
            self._interrupt.deliver()
        if self.cancelled():
            return
        with self._interrupt:
            token, logits = self.first()
        while len(self.tokens) < self.limit:
            with self._interrupt:
                ahead = self._step(token) if len(self.tokens) + 1 < self.limit else None
                self.tokens.append(int(token.item()))  # type: ignore[arg-type]
            yield self.tokens[-1], logits
            self._interrupt.deliver()
            if ahead is None or self.cancelled():
                return
            token, logits = ahead
            if len(self.tokens) % CLEAR_EVERY == 0:
                mx.clear_cache()

    def prefill(self) -> Iterator[int]:
        """Reads the prompt but its last token, whose logits the first step needs; yields tokens read, chunk by chunk.

        It ends early where the generation is cancelled.
        """
        self.history = mx.array(np.concatenate([self.before, self.prompt[:-1]]))
        total = len(self.prompt)
        if isinstance(self.cache, State):
            self.cache.expected = self.cached_tokens + total
        with self._interrupt:
            self._passes = Passes(self.model, self.prompt, self.cache, self.media)
        chunks = self._passes.chunks(self.chunk)
        for start, end in chunks if self.reuse is None else self.reuse.stopping(chunks, self._passes.divides):
            self.progress(start, total)
            if self.cancelled():
                return
            with self._interrupt:
                self._passes.read(start, end)
                self.policy.apply(self.cache)
                mx.eval(arrays_of(self.cache))
                if self.reuse is not None:
                    self.reuse.note(self.cache)
            mx.clear_cache()
            yield end
        self.progress(total - 1, total)

    def first(self) -> tuple[mx.array, mx.array]:
        """The first token (1,) and its logits (vocab,), after all of the prompt was read."""
        logits = self._passes.read(self._passes.last, len(self.prompt))
        token, logits = self._chosen(mx.array(self.prompt[-1:]), logits)
        self._begun = True
        self._check(logits)
        self.progress(len(self.prompt), len(self.prompt))
        return token, logits

    def _step(self, token: mx.array) -> tuple[mx.array, mx.array]:
        """Starts computing the token after ``token``, both of shape (1,), and doesn't wait for it."""
        return self._chosen(token, self.model(token.astype(mx.int32)[None], cache=self.cache))

    def _chosen(self, token: mx.array, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The token after ``token`` by logits (1, L, vocab), and those of it (vocab,), on their way."""
        logits = logits[:, -1, :]
        self.policy.apply(self.cache)
        if self.constraint is not None:
            mx.async_eval(logits, arrays_of(self.cache))  # the device works on them while the mask is made
        chosen, logits = self.choose(token, logits)
        logits = logits.squeeze(0)
        mx.async_eval(chosen, logits, self.history, arrays_of(self.cache))
        return chosen, logits

    def choose(self, token: mx.array, logits: mx.array, answer: list[int] | None = None,
               allowed: np.ndarray | None = None) -> tuple[mx.array, mx.array]:
        """The token after ``token``, both (1,), and the logits (1, vocab) that it was drawn from; nothing is evaluated.

        For a constraint: ``answer`` is the answer so far, where that is known already, ``allowed`` what may follow it.
        """
        if self.processors:
            logits = logits.astype(mx.float32)
            self.history = mx.concatenate([self.history, token.astype(mx.int32)])
            for process in self.processors:
                logits = _same_shape(process, process(self.history, logits), logits)
        if self.constraint is not None:
            if allowed is None:
                self.constraint.follow(self._answer(token) if answer is None else answer)
            logits = masked(logits, self.constraint.mask() if allowed is None else allowed)
        # Normalizing costs a pass over the vocabulary, which the largest logit doesn't need.
        chosen = self.sampler(logits if self.sampler is greedy else log_softmax(logits))
        return _same_shape(self.sampler, chosen, token), logits

    def _answer(self, token: mx.array) -> list[int]:
        return [*self.tokens, int(token.item())] if self._begun else []  # type: ignore[arg-type]

    def _check(self, logits: mx.array) -> None:
        if mx.isnan(logits).any().item():
            raise GenerationError("the model's logits are not numbers (NaN)",
                                  hint="Its weights may be damaged, or its values too large for float16.")


def token_ids(prompt, vocab: int | None = None, *, places: bool = False) -> np.ndarray:
    """A prompt's ids, int32 (length,). Raises GenerationError unless they are ids below ``vocab``.

    ``places``: some of them keep places for media, which a model may ask of ids below 0.
    """
    expected = "a list or a one-dimensional array of token ids"
    if isinstance(prompt, mx.array) and prompt.dtype == mx.bfloat16:
        prompt = prompt.astype(mx.float32)  # numpy has no bfloat16; what it isn't, is ids
    try:
        ids = np.asarray(prompt)
    except ValueError as error:
        raise GenerationError("ragged", where="prompt", found=shown(prompt), expected=expected) from error
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.size == 0 and ids.ndim == 1:
        raise GenerationError("empty", where="prompt", expected="at least one token")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        found = f"{type(prompt).__name__} of shape {ids.shape}" if ids.ndim else shown(prompt)
        raise GenerationError("not token ids", where="prompt", found=found, expected=expected)
    low, high = int(ids.min()), int(ids.max())
    if (low < 0 and not places) or high >= (2**31 if vocab is None else vocab):
        raise GenerationError("not in the vocabulary", where="prompt",
                              found=f"token id {low if low < 0 else high}",
                              expected="ids of 0 or more" + (f" and below {vocab}" if vocab else ""))
    return ids.astype(np.int32)


def vocab_size(model) -> int | None:
    return _config_value(model, ("vocab_size",))


def context_size(model) -> int | None:
    """The number of positions that the model was made for, if its config says."""
    return _config_value(model, ("max_position_embeddings", "n_positions"))


def offset(cache) -> int:
    """The number of tokens that a cache has seen; for a plain list, the most that a layer of it has."""
    own = getattr(cache, "offset", None)
    if own is None and not isinstance(cache, (list, tuple)):
        raise GenerationError("not a cache", where="cache", found=shown(cache),
                              expected="what model.make_cache() returns")
    return int(own) if own is not None else max((int(getattr(c, "offset", 0)) for c in cache), default=0)


def _config_value(model, names: Iterable[str]) -> int | None:
    # Modules of other packages call their config `args`, and a vision-language model's text has one of its
    # own.
    config = getattr(model, "config", None) or getattr(model, "args", None)
    text = getattr(config, "text_config", None)
    for part in (config, getattr(text, "config", text)):
        for name in names:
            value = part.get(name) if isinstance(part, dict) else getattr(part, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def _same_shape(function, got, expected: mx.array) -> mx.array:
    if not isinstance(got, mx.array) or got.shape != expected.shape:
        found = f"shape {got.shape}" if isinstance(got, mx.array) else shown(got)
        raise GenerationError("a wrong result", where=getattr(function, "__name__", type(function).__name__),
                              found=found, expected=f"an array of shape {expected.shape}")
    return got


def _make_cache(model, max_kv_size: int | None):
    if max_kv_size is None:
        return model.make_cache()
    return model.make_cache(max_kv_size=integer("max_kv_size", max_kv_size, 1))


def arrays_of(cache) -> list[mx.array]:
    """All arrays that a cache holds; a plain list may hold layers of another package, empty ones among them."""
    own = getattr(cache, "arrays", None)
    if own is not None:
        return own
    filled = [layer for layer in cache if not (hasattr(layer, "empty") and layer.empty())]
    return [leaf for _, leaf in tree_flatten([layer.state for layer in filled]) if isinstance(leaf, mx.array)]
