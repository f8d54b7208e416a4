"""One turn: answer, calls, results, and again, until an answer needs no more tools."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from ..generate import GenerateParameters, GenerationStats, Piece, TextStream
from ..generate.prompt import prepare
from ..tools import RejectedCall, ToolCall, result_message
from ..tools.writing import call_message
from .dispatch import Toolkit, ToolResult, Wait, failed
from .memory import Memory
from .transcript import detached


@dataclass(frozen=True)
class ChatEvent:
    """A step of a turn: text, reasoning or calls as they come (``piece`` has the token), or the results of calls.

    ``finish_reason`` and ``stats`` come with the last event of an answer; a turn with tools has several answers.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    rejected: tuple[RejectedCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    finish_reason: str | None = None
    stats: GenerationStats | None = None
    piece: Piece | None = field(default=None, repr=False)


class Reply(str):
    """An answer's text, with what came with it.

    ``tool_calls`` are those that wait for the caller's results; ``results`` those that were run for it; ``stats`` are
    the last answer's, ``rounds`` every answer's.
    """

    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    rejected: tuple[RejectedCall, ...]
    results: tuple[ToolResult, ...]
    finish_reason: str | None
    rounds: tuple[GenerationStats, ...]

    @property
    def stats(self) -> GenerationStats:
        return self.rounds[-1] if self.rounds else GenerationStats()

    @classmethod
    def of(cls, events: list[ChatEvent]) -> Reply:
        """The last answer of a turn's events, with the results of all of them."""
        ends = [at for at, event in enumerate(events) if event.finish_reason]
        last = events[(ends[-2] + 1 if len(ends) > 1 else 0):]
        after = events[ends[-1] + 1:] if ends else []
        made = cls("".join(event.text for event in last))
        made.reasoning = "".join(event.reasoning for event in last)
        made.results = tuple(result for event in events for result in event.results)
        done = {result.call.id for event in after for result in event.results}
        made.tool_calls = tuple(c for event in last for c in event.tool_calls if c.id not in done)
        made.rejected = tuple(rejected for event in last for rejected in event.rejected)
        made.finish_reason = events[ends[-1]].finish_reason if ends else None
        made.rounds = tuple(event.stats for event in events if event.finish_reason and event.stats)
        return made


@dataclass
class Answer:
    """What one generation said, as it will stand in the history."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    unread: list[RejectedCall] = field(default_factory=list)
    refused: list[RejectedCall] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, piece: Piece) -> None:
        """Adds a piece. A rejected call with a name stays a call, so that its error has something to answer."""
        self.reasoning += piece.reasoning
        self.finish_reason = piece.finish_reason
        for event in piece.events:
            if event.call is not None:
                self.calls.append(event.call)
            elif event.rejected is not None and self._named(event.rejected):
                self.refused.append(event.rejected)
                self.calls.append(_as_call(event.rejected))
            elif event.rejected is not None:
                self.unread.append(event.rejected)
                self.text += event.text
            elif event.kind == "content":
                self.text += event.text
        if not piece.events:
            self.text += piece.text

    @staticmethod
    def _named(rejected: RejectedCall) -> bool:
        return bool(rejected.name) and isinstance(rejected.arguments, dict)

    def message(self) -> dict[str, Any]:
        """The assistant's message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [call_message(call) for call in self.calls]
        return message

    @property
    def empty(self) -> bool:
        return not (self.text or self.reasoning or self.calls)


def _as_call(rejected: RejectedCall) -> ToolCall:
    return ToolCall(str(rejected.name), rejected.arguments, rejected.id or secrets.token_hex(5)[:9], rejected.raw)


@dataclass
class Turn:
    """What a turn works with; ``messages`` is the transcript, to which it adds."""

    model: Any
    processor: Any
    messages: list[dict[str, Any]]
    memory: Memory
    toolkit: Toolkit
    chosen: dict[str, Any]
    rounds: int
    wait: Wait
    configuration: Any = None

    def run(self) -> Generator[ChatEvent, None, None]:
        """Answers, runs the calls that have functions, and answers again; ends at an answer without such calls."""
        for left in range(self.rounds, -1, -1):
            answer = Answer()
            try:
                yield from self._answer(answer)
            finally:
                if not answer.empty:
                    self.messages.append(answer.message())
            if answer.finish_reason not in ("tool_calls", "stop") or left == 0:
                return
            results = [self._result(call, answer) for call in answer.calls if self.toolkit.answers(call)]
            self.messages += [result_message(result.call, result.content) for result in results]
            if results and self.chosen.get("tool_choice", "none") != "none":
                self.chosen = {**self.chosen, "tool_choice": "auto"}  # what was asked for has been called
            unread = self._unread(answer)
            if results:
                yield ChatEvent(results=tuple(results))
            if not (results or unread) or len(results) < len(answer.calls):
                return
            self.messages += unread

    def _result(self, call: ToolCall, answer: Answer) -> ToolResult:
        wrong = next((r for r in answer.refused if (r.name, r.arguments) == (call.name, call.arguments)), None)
        if wrong is not None and wrong.reason == "invalid_arguments":
            return failed(call, f"wrong arguments: {wrong.detail}")
        return self.toolkit.run(call, self.wait)

    def _unread(self, answer: Answer) -> list[dict[str, Any]]:
        """What the model is told of calls that couldn't be read, where tools are run for it."""
        if not answer.unread or not self.toolkit.functions:
            return []
        problems = "; ".join(f"{one.reason}: {one.detail}" for one in answer.unread)
        return [{"role": "user", "content": f"The tool call could not be read ({problems}). Write it again."}]

    def _answer(self, answer: Answer) -> Generator[ChatEvent, None, None]:
        """One generation over the whole transcript, of which the cache may hold the beginning already."""
        messages, media = detached(self.messages)
        parameters = GenerateParameters.of({**self.chosen, **media})
        prompt = prepare(self.model, self.processor, messages, parameters, self.configuration)
        keys = prompt.keys
        reused = self.memory.fit(prompt)
        stream = TextStream(self.model, self.processor, prompt.after(reused),
                            replace(parameters, cache=self.memory.cache, prompt_progress_callback=self._progress(
                                len(keys), parameters.prompt_progress_callback)), self.configuration)
        self._stream = stream
        try:
            with closing(stream):
                for piece in stream:
                    answer.take(piece)
                    yield ChatEvent(piece.text, piece.reasoning, piece.tool_calls, piece.rejected, (),
                                    piece.finish_reason, piece.stats if piece.finish_reason else None, piece)
        except (GeneratorExit, KeyboardInterrupt):
            self.memory.learnt(stream.cache, keys + stream.tokens, prompt.media_end)
            raise
        except BaseException:
            self.memory.clear()  # a step that failed may have moved some layers on and others not
            raise
        self.memory.learnt(stream.cache, keys + stream.tokens, prompt.media_end)
        self.memory.share()

    def _progress(self, total: int, told: Callable[[int, int], Any] | None) -> Callable[[int, int], None]:
        """Tells the caller how far the prompt is, and takes a snapshot where all but its last token is read."""
        def progress(done: int, of: int) -> None:
            if done == of - 1:
                self.memory.snapshot(self._stream.cache, total - 1)
            if told is not None:
                told(done, of)

        return progress
