"""Text as it comes: whole characters, without stop strings, reasoning and calls apart; with the last piece its end."""
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import numpy as np

from ..text.stops import StopStrings
from ..tools import Piece as Event
from ..tools import RejectedCall, ToolCall
from .conventions import Parts
from .loop import TokenIterator
from .parameters import GenerateParameters
from .prompt import prepare, tokenizer_of
from .reuse import begin, turn_border
from .sample import log_softmax
from .speculative import make_iterator

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "timeout"]


@dataclass(frozen=True)
class GenerationStats:
    """Counts in tokens, times in seconds, rates in tokens per second, memory in GB (10^9 bytes).

    ``cached_tokens`` were in the cache before and aren't part of ``prompt_tokens``. ``generation_tps`` is the
    rate after the first token. ``peak_memory`` is MLX's for the whole process. ``draft_tokens`` were guessed ahead,
    ``accepted_tokens`` of them were right.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    prompt_time: float = 0.0
    generation_time: float = 0.0
    time_to_first_token: float = 0.0
    peak_memory: float = 0.0
    draft_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def acceptance_rate(self) -> float:
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0

    @property
    def prompt_tps(self) -> float:
        return self.prompt_tokens / self.prompt_time if self.prompt_time else 0.0

    @property
    def generation_tps(self) -> float:
        return (self.generation_tokens - 1) / self.generation_time if self.generation_time else 0.0

    def summary(self) -> str:
        """The three lines that ``verbose=True`` prints."""
        return (f"Prompt: {self.prompt_tokens} tokens, {self.prompt_tps:.3f} tokens-per-sec\n"
                f"Generation: {self.generation_tokens} tokens, {self.generation_tps:.3f} tokens-per-sec\n"
                f"Peak memory: {self.peak_memory:.3f} GB")


@dataclass(frozen=True)
class Piece:
    """One token and the text that it completed, which may be empty: a character can take several tokens.

    ``text`` is content alone where the answer is taken apart: reasoning, calls and rejected calls (which carry their
    text and why) are in fields of their own, and ``events`` has all of it in order. ``token`` is None only in a last
    piece that no token came with (cancelled, or ``max_tokens=0``). ``finish_reason`` is None but in the last piece;
    "tool_calls" is a stop after at least one call. An EOS token has no text.
    """

    text: str
    token: int | None
    logits: mx.array | None = field(default=None, repr=False)
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    rejected: tuple[RejectedCall, ...] = ()
    finish_reason: FinishReason | None = None
    stats: GenerationStats = field(default_factory=GenerationStats, repr=False)
    top_logprobs: tuple[tuple[int, float], ...] = ()
    events: tuple[Event, ...] = field(default=(), repr=False)

    @property
    def answer(self) -> str:
        """The content with calls as the model wrote them, in place: all but reasoning and control tokens."""
        if not self.events:
            return self.text
        return "".join(event.text for event in self.events if event.kind in ("content", "call", "rejected"))

    @property
    def logprobs(self) -> mx.array | None:
        """float32 (vocab,) that the token was drawn from, after logits processors; computed when read."""
        return None if self.logits is None else log_softmax(self.logits)

    @property
    def logprob(self) -> float | None:
        """The token's own log-probability."""
        logprobs = self.logprobs
        return None if logprobs is None or self.token is None else logprobs[self.token].item()  # type: ignore

    prompt_tokens = property(lambda self: self.stats.prompt_tokens)
    prompt_tps = property(lambda self: self.stats.prompt_tps)
    generation_tokens = property(lambda self: self.stats.generation_tokens)
    generation_tps = property(lambda self: self.stats.generation_tps)
    peak_memory = property(lambda self: self.stats.peak_memory)


class TextStream(Iterator[Piece]):
    """Iterates over `Piece`s; ``prompt``, ``tokens`` (ids), ``cache`` and ``stats`` may be read any time.

    After an early end too, the cache holds the first ``cache.offset - stats.cached_tokens`` of prompt and
    tokens.
    """

    def __init__(self, model, processor, prompt, parameters: GenerateParameters, configuration=None):
        self._start = time.perf_counter()
        tokenizer = tokenizer_of(processor)
        prepared = prepare(model, processor, prompt, parameters, configuration)
        self._reader = prepared.reader
        self._eos, stops = _endings(tokenizer, configuration)
        self._stops = StopStrings(self._reader.stops(stops + parameters.stop_strings()))
        self._detokenizer = tokenizer.detokenizer()
        self._parameters = parameters
        settings = parameters.loop_arguments()
        if parameters.prefix_store is not None:
            border = turn_border(tokenizer, prompt, parameters, prepared.ids)
            prepared, settings["cache"], settings["reuse"] = begin(model, prepared, parameters, border)
        if prepared.budget is not None:
            settings["logits_processors"] = [*settings["logits_processors"], prepared.budget]
        self._iterator = make_iterator(prepared.ids, model, processor, parameters, **settings, media=prepared.media,
                                       before=prepared.before,
                                       constraint=parameters.make_constraint(tokenizer, self._eos, prepared.frame))
        self._times = [0.0, 0.0, 0.0]
        self._pieces = self._generate()

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the generation here; the cache stays usable."""
        self._pieces.close()

    @property
    def prompt(self) -> np.ndarray:
        return self._iterator.prompt

    @property
    def tokens(self) -> list[int]:
        return self._iterator.tokens

    @property
    def cache(self):
        return self._iterator.cache

    @property
    def stats(self) -> GenerationStats:
        begun, first, last = self._times
        return GenerationStats(
            prompt_tokens=len(self.prompt), cached_tokens=self._iterator.cached_tokens,
            generation_tokens=len(self.tokens), prompt_time=first - begun, generation_time=last - first,
            time_to_first_token=first - self._start if first else 0.0, peak_memory=mx.get_peak_memory() / 1e9,
            draft_tokens=getattr(self._iterator, "proposed", 0),
            accepted_tokens=getattr(self._iterator, "accepted", 0))

    def _generate(self) -> Generator[Piece, None, None]:
        self.begin()
        with closing(iter(self._iterator)) as tokens:
            for token, logits in tokens:
                piece = self.take(token, logits)
                yield piece
                if piece.finish_reason:
                    return
        yield self.end("cancelled" if self._parameters.cancelled() else "length")

    @property
    def source(self) -> TokenIterator:
        """Where the tokens come from; an engine that runs several generations drives it by hand."""
        return self._iterator

    def begin(self) -> None:
        """Starts the clock: the prompt is read from here on."""
        self._times = [time.perf_counter()] * 3

    def end(self, reason: FinishReason) -> Piece:
        """The last piece of an answer that ends without another token."""
        parts, stopped = self._text(None, True)
        return self._told(parts, None, None, "stop" if stopped else reason)

    def take(self, token: int, logits: mx.array) -> Piece:
        """The piece of the token that ``source`` has listed last, drawn from ``logits`` (vocab,)."""
        now = time.perf_counter()
        self._times[1:] = [now if len(self.tokens) == 1 else self._times[1], now]
        eos, full = token in self._eos, len(self.tokens) >= self._iterator.limit
        parts, stopped = self._text(token, eos or full, eos)
        return self._told(parts, token, logits, "stop" if eos or stopped else "length" if full else None)

    def _told(self, parts: Parts, token: int | None, logits: mx.array | None, reason: FinishReason | None) -> Piece:
        if reason == "stop" and self._reader.called:
            reason = "tool_calls"
        top = () if logits is None else _likeliest(logits, self._parameters.top_logprobs)
        return Piece(parts.text, token, logits, parts.reasoning, parts.calls, parts.rejected, reason, self.stats, top,
                     parts.events)

    def _text(self, token: int | None, last: bool, eos: bool = False) -> tuple[Parts, bool]:
        """What the text is that a token completes, and whether a stop string ended it."""
        reader = self._reader
        text = "" if token is None or eos else reader.mark(token, self._detokenizer.add_token(token))
        if last:
            text += reader.mark(None, self._detokenizer.finalize())
        text, _ = self._stops.feed(text)
        if last:
            text += self._stops.flush()
        stopped = self._stops.stopped
        if eos and token is not None and not stopped:
            text += reader.control(token)
        return reader.read(text, last or stopped), stopped


def stream_generate(model, processor, prompt, *, configuration=None, **parameters) -> TextStream:
    """Streams a model's answer to a prompt, piece by piece; iterate over the result.

    processor: the tokenizer (or processor) that `mlxlm.load` returned with the model.
    prompt: text, taken as it is; a list of messages (dicts), for the chat template; or token ids. The answer to
        messages is taken apart: content is in a piece's ``text``, reasoning and calls beside it.
    configuration: a `ModelConfiguration` whose EOS tokens, stop strings and conventions count, instead of the one
        that the model was loaded with.
    parameters: see `GenerateParameters`. Raises GenerationError, at once, for what can't be done.
    """
    return TextStream(model, processor, prompt, GenerateParameters.of(parameters), configuration)


def generate(model, processor, prompt, *, verbose: bool = False, **parameters) -> str:
    """The whole answer to a prompt, as text; ``verbose`` prints it as it comes, and the rates after it.

    To text or ids it is all that the model wrote, as in mlx-lm. To messages it is the answer without the reasoning,
    which `stream_generate` tells; calls stay in it as the model wrote them. The other arguments are
    `stream_generate`'s.
    """
    stream = stream_generate(model, processor, prompt, **parameters)
    if verbose:
        print("=" * 10)
    parts = []
    for piece in stream:
        parts.append(piece.answer)
        if verbose:
            print(piece.answer, end="", flush=True)
    if verbose:
        print(f"\n{'=' * 10}")
        print(stream.stats.summary() if any(parts) else "No text generated for this prompt")
    return "".join(parts)


def _endings(tokenizer, configuration) -> tuple[frozenset[int], list[str]]:
    """The ids and the strings that end an answer; an extra EOS token that is no token of this model ends it as text."""
    configuration = configuration or getattr(tokenizer, "configuration", None)
    ends = [*tokenizer.eos_token_ids, getattr(tokenizer, "unk_token_id", None)]
    strings = []
    if configuration is not None:
        ends += map(tokenizer.convert_tokens_to_ids, configuration.extra_eos_tokens)
        ends += configuration.eos_token_ids
        strings = list(configuration.effective_stop_strings)
    return frozenset(end for end in ends if end is not None), strings


def _likeliest(logits: mx.array, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    logprobs = np.asarray(log_softmax(logits))
    best = np.argsort(-logprobs, kind="stable")[:count]
    return tuple((int(token), float(logprobs[token])) for token in best)
