"""ChatSession: ask and be answered; what failed or was stopped leaves no trace in the conversation."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import GenerationError, UsageError
from ..generate import GenerateParameters
from ..generate.checks import integer
from ..generate.prefix_store import model_key
from ..generate.prompt_cache import load_prompt_cache, save_prompt_cache
from ..generate.reuse import settings_of
from ..text.messages import check_messages
from ..tools import ToolCall, result_message
from . import background, transcript
from .dispatch import Approve, Toolkit, Wait, told, wait_here
from .memory import Memory
from .turn import ChatEvent, Reply, Turn

MAX_TOKENS = 4096
"""The most tokens of an answer, where the caller doesn't say: in a conversation 256 would cut too many short."""

Functions = Mapping[str, Callable[..., Any]]
Prompt = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class ChatSession:
    """A conversation with a model.

    instructions: the system message; it may be changed at any time.
    tools: functions, pydantic models or JSON schemas. Functions are called when the model asks for it, and it goes on
        with what they gave; calls of other tools wait in the reply for `add_result`. ``functions`` has functions for
        tools that are schemas. ``approve`` is asked before each call: False or a reason refuses it.
    history: messages to begin with.
    max_tool_rounds: how often in one turn results are given back to the model.
    snapshots, snapshot_bytes: how many checkpoints of layers that can't be taken back (recurrent and sliding ones) are
        kept, and how large they may be in all.
    prefix_store: a `PrefixStore` that sessions of one model share, so that a common beginning is read once.
    parameters: as in `stream_generate`, for every turn; ``max_tokens`` is 4096 where none is given.

    A turn that fails or is stopped is taken back whole. One turn runs at a time; another is refused meanwhile.
    """

    def __init__(self, model: Any, processor: Any, *, instructions: str | None = None,
                 tools: Iterable[Any] | None = None, functions: Functions | None = None,
                 approve: Approve | None = None, history: Sequence[Mapping[str, Any]] | None = None,
                 max_tool_rounds: int = 8, snapshots: int = 4, snapshot_bytes: int = 2 << 30,
                 prefix_store: Any = None, configuration: Any = None, **parameters: Any):
        self.model, self.processor, self.configuration = model, processor, configuration
        self.instructions = instructions
        self.parameters = {"max_tokens": MAX_TOKENS, **parameters}
        settings = settings_of(GenerateParameters.of(self.parameters))
        self.toolkit = Toolkit(tools, functions, approve)
        self.max_tool_rounds = integer("max_tool_rounds", max_tool_rounds, 0)
        key = model_key(model, settings) if prefix_store is not None else ""
        self.memory = Memory(integer("snapshots", snapshots, 0), integer("snapshot_bytes", snapshot_bytes, 0),
                             prefix_store, key)
        self._history: list[dict[str, Any]] = [dict(one) for one in history] if history else []
        if self._history:
            check_messages(self._history)
            self._take_instructions()
        self._busy = threading.Lock()

    def _take_instructions(self) -> None:
        """A system message at the history's beginning is the instructions, unless there are some."""
        first = self._history[0]
        if self.instructions is None and first["role"] == "system" and isinstance(first.get("content"), str):
            self.instructions = self._history.pop(0)["content"]

    # What has been said

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The whole conversation, instructions first, as messages of a chat template."""
        system = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        return system + [dict(message) for message in self._history]

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """Calls of the last answer that have no result yet."""
        calls: dict[str, ToolCall] = {}
        for message in self._history:
            for call in message.get("tool_calls") or ():
                function = call.get("function", call)
                made = ToolCall(function["name"], function.get("arguments") or {}, call.get("id") or "")
                calls[made.id] = made
            if message["role"] == "user":
                calls = {}
            calls.pop(message.get("tool_call_id") or "", None)
        return tuple(calls.values())

    # Turns

    def respond(self, prompt: Prompt = None, *, images: Any = None, videos: Any = None, **overrides: Any) -> Reply:
        """Adds a message (text of the user, a message or several; None to go on after results), and answers.

        ``overrides`` stand above the session's parameters for this turn. Raises MLXLMError, and takes the turn back,
        where it can't be done.
        """
        return Reply.of(list(self._turn(self._said(prompt, images, videos), overrides, wait_here, False)))

    def stream(self, prompt: Prompt = None, *, images: Any = None, videos: Any = None, keep_partial: bool = False,
               **overrides: Any) -> Iterator[ChatEvent]:
        """As `respond`, event by event.

        Closing it, or Ctrl-C, ends the turn and takes it back; with ``keep_partial`` what was said so far stays.
        """
        return self._turn(self._said(prompt, images, videos), overrides, wait_here, keep_partial)

    async def arespond(self, prompt: Prompt = None, *, images: Any = None, videos: Any = None,
                       **overrides: Any) -> Reply:
        """As `respond`, in a thread beside the running loop, in which asynchronous tools are run."""
        return Reply.of([event async for event in self.astream(prompt, images=images, videos=videos, **overrides)])

    def astream(self, prompt: Prompt = None, *, images: Any = None, videos: Any = None, keep_partial: bool = False,
                **overrides: Any) -> AsyncIterator[ChatEvent]:
        """As `stream`, in a thread beside the running loop; leaving it ends the turn."""
        said = self._said(prompt, images, videos)

        def run(wait: Wait, stopped: Callable[[], bool]) -> Generator[ChatEvent, None, None]:
            chosen = {**self.parameters, **overrides}
            own = GenerateParameters.of(chosen).cancelled
            return self._turn(said, {**overrides, "cancel": lambda: stopped() or own()}, wait, keep_partial)

        return background.events(run)

    def retry(self, **overrides: Any) -> Reply:
        """Answers the user's last message once more, in place of the answer that it has. UsageError without one."""
        at = self._last_user()
        dropped, self._history = self._history[at + 1:], self._history[: at + 1]
        try:
            return self.respond(None, **overrides)
        except BaseException:
            self._history += dropped
            raise

    def undo(self) -> list[dict[str, Any]]:
        """Takes back the user's last message and all after it; returns them. UsageError if there is none."""
        with self._one_at_a_time():
            at = self._last_user()
            taken, self._history = self._history[at:], self._history[:at]
            return taken

    def edit(self, prompt: Prompt, **more: Any) -> Reply:
        """Puts another message in the place of the user's last one, and answers that."""
        taken = self.undo()
        try:
            return self.respond(prompt, **more)
        except BaseException:
            self._history += taken
            raise

    def stream_retry(self, *, keep_partial: bool = False, **overrides: Any) -> Iterator[ChatEvent]:
        """As `retry`, event by event; the answer that was there comes back where no new one is kept."""
        at = self._last_user()
        return self._instead(at + 1, lambda: self.stream(None, keep_partial=keep_partial, **overrides))

    def stream_edit(self, prompt: Prompt, *, keep_partial: bool = False, **more: Any) -> Iterator[ChatEvent]:
        """As `edit`, event by event; the question that was there comes back where no answer is kept."""
        at = self._last_user()
        return self._instead(at, lambda: self.stream(prompt, keep_partial=keep_partial, **more))

    def _instead(self, at: int, turn: Callable[[], Iterator[ChatEvent]]) -> Iterator[ChatEvent]:
        """A turn in the place of all messages from ``at`` on."""
        with self._one_at_a_time():
            dropped, self._history = self._history[at:], self._history[:at]
        try:
            yield from turn()
        finally:
            if len(self._history) == at:
                self._history += dropped

    def add_result(self, call: ToolCall | str, result: Any) -> None:
        """The result of a call that the session couldn't run, by the call or its id; `respond()` then goes on.

        UsageError for a call that waits for none.
        """
        wanted = call if isinstance(call, str) else call.id
        found = next((one for one in self.pending if one.id == wanted), None)
        if found is None:
            raise UsageError("no such call waits for a result", where="add_result", found=wanted,
                             expected=", ".join(one.id for one in self.pending) or "no call at all")
        self._history.append(result_message(found, told(result)))

    def clear(self) -> None:
        """Forgets all that was said; instructions, tools and parameters stay."""
        with self._one_at_a_time():
            self._history = []
            self.memory.clear()

    # Files

    def save(self, path: str | Path, *, cache: bool = False) -> None:
        """Writes the conversation as JSON; with ``cache`` what the model remembers too, beside it as .safetensors.

        Tools and parameters aren't in it: they are code. Raises MLXLMError for a place that can't be written.
        """
        name = getattr(self.configuration or getattr(self.processor, "configuration", None), "name", None)
        transcript.write(Path(path), {"model": name, "instructions": self.instructions, "messages": self._history})
        if cache and self.memory.cache is not None:
            keys = json.dumps([self.memory.keys, self.memory.media_end])
            save_prompt_cache(Path(path).with_suffix(".safetensors"), self.memory.cache, {"ids": keys})

    @classmethod
    def load(cls, path: str | Path, model: Any, processor: Any, **arguments: Any) -> ChatSession:
        """The session of a conversation that was saved, with its cache if that was too.

        The arguments are those of the class. Raises MLXLMError for files that are damaged, or of another model.
        """
        document = transcript.read(Path(path))
        arguments.setdefault("instructions", document.get("instructions"))
        made = cls(model, processor, **arguments)
        made._history = document["messages"]
        beside = Path(path).with_suffix(".safetensors")
        if beside.exists():
            state, metadata = load_prompt_cache(beside, model, return_metadata=True)
            made.memory.learnt(state, *transcript.saved_ids(metadata.get("ids"), beside))
        return made

    # Within

    def _said(self, prompt: Prompt, images: Any, videos: Any) -> list[dict[str, Any]]:
        """The messages that a turn begins with."""
        given = [[] if one is None else list(one) if isinstance(one, (list, tuple)) else [one]
                 for one in (images, videos)]
        if prompt is None and not any(given):
            return []
        if prompt is None or isinstance(prompt, str):
            return [{"role": "user", "content": transcript.with_media(prompt or "", *given)}]
        if any(given):
            raise UsageError("images and videos go with text", where="prompt", found=type(prompt).__name__)
        messages = [prompt] if isinstance(prompt, Mapping) else list(prompt)
        check_messages(messages)
        return [dict(message) for message in messages]

    def _turn(self, said: list[dict[str, Any]], overrides: dict[str, Any], wait: Wait,
              keep_partial: bool) -> Generator[ChatEvent, None, None]:
        with self._one_at_a_time():
            before = list(self._history)
            kept = False
            try:
                messages = [*self.messages, *said]
                if not messages or messages[-1]["role"] == "system":
                    raise UsageError("there is nothing to answer", where="prompt", expected="a message")
                turn, start = self._made(messages, overrides, wait), len(self.messages)
                last: ChatEvent | None = None
                try:
                    for last in turn.run():
                        yield last
                finally:
                    answered = any(one["role"] == "assistant" for one in turn.messages[start + len(said):])
                    self._history = before + turn.messages[start:]
                    kept = answered and keep_partial
                kept = kept or (answered and last is not None and last.finish_reason != "cancelled")
            finally:
                if not kept:
                    self._history = before

    def _made(self, messages: list[dict[str, Any]], overrides: dict[str, Any], wait: Wait) -> Turn:
        chosen = {**self.parameters, **overrides}
        if {"cache", "prompt_cache"} & set(chosen):
            raise GenerationError("a session keeps a cache of its own", where="cache")
        if self.toolkit.schemas is not None:
            chosen.setdefault("tools", self.toolkit.schemas)
        return Turn(self.model, self.processor, messages, self.memory, self.toolkit, chosen, self.max_tool_rounds,
                    wait, self.configuration)

    def _one_at_a_time(self) -> _Held:
        return _Held(self._busy)

    def _last_user(self) -> int:
        found = [at for at, message in enumerate(self._history) if message["role"] == "user"]
        if not found:
            raise UsageError("the user hasn't said anything yet", where="history")
        return found[-1]


class _Held:
    """Holds a lock, or says at once that a turn holds it."""

    def __init__(self, lock: threading.Lock):
        self.lock = lock

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            raise UsageError("a turn of this session is still under way", where="session",
                             hint="Read its events to the end, or close it.")

    def __exit__(self, *_exception: object) -> None:
        self.lock.release()
