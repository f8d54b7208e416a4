"""The loop of `mlxlm chat`: what is typed goes to a command or to the model; what a turn says goes to the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from difflib import get_close_matches
from typing import Any

from ..chat import ChatEvent, ChatSession
from ..errors import MLXLMError, UsageError
from .generate import summary
from .repl_commands import COMMANDS, Leave
from .repl_screen import Plain

WELCOME = "/help lists the commands · Ctrl-C stops an answer · Ctrl-D leaves"
STOPPED = {"error": "stopped by the user"}


class Repl:
    """A conversation at the keyboard or from a pipe.

    name: the model's, as it was given; load: another model and its processor by name, for `/model`.
    tools: functions by name; ask: says whether a call may be made. None: no call is.
    at_keyboard: mistakes are told, and the conversation goes on; from a pipe they end it.
    arguments: the session's own.
    """

    def __init__(self, name: str, model: Any, processor: Any, *, screen: Plain, load: Callable[[str], tuple[Any, Any]],
                 tools: dict[str, Callable] | None = None, ask: Callable[[Any], Any] | None = None,
                 at_keyboard: bool = True, stats: bool = False, **arguments: Any):
        self.name, self.screen, self.load, self.stats = name, screen, load, stats
        self.at_keyboard = at_keyboard
        self.tools = dict(tools or {})
        self.approve: Callable[[Any], Any] = ask or (lambda call: "tools aren't run without a terminal; --yes-tools")
        self.images: list[str] = []
        self.videos: list[str] = []
        self.prefill, self.editing = "", False
        self.thoughts, self.last = "", None
        self.session = ChatSession(model, processor, tools=[*self.tools.values()] or None, approve=self.approve,
                                   **arguments)

    def run(self, turns: Iterable[str]) -> None:
        """Takes turns until there are no more."""
        for text in turns:
            try:
                self.take(text)
            except Leave:
                return
            except KeyboardInterrupt:  # within a command, such as the loading of another model
                if not self.at_keyboard:
                    raise
                self.screen.note("stopped")
            except MLXLMError as error:
                if not self.at_keyboard:
                    raise
                self.screen.error(str(error))

    def take(self, text: str) -> None:
        """One command or question. A question may begin with a slash behind a space."""
        name, _, rest = text.strip().partition(" ")
        if text.startswith("/") and (name in COMMANDS or self.at_keyboard):
            if name not in COMMANDS:
                close = get_close_matches(name, COMMANDS, 1)
                raise UsageError("no such command", where=name, hint=f"Did you mean {close[0]}?" if close else
                                 "/help lists them; a space before it makes it a question.")
            COMMANDS[name].run(self, rest.strip())
        elif self.editing:
            self.edit(text.strip())
        else:
            self.say(text.strip())

    def say(self, text: str) -> None:
        """A question, with the media that wait for one; they wait on where it can't be answered."""
        images, videos = self.images, self.videos
        self.play(self.session.stream(text, images=images or None, videos=videos or None, keep_partial=True))
        self.images, self.videos = [], []

    def edit(self, text: str) -> None:
        """Another question in the place of the last, with the same media."""
        self.editing = False
        content = self.last_question().get("content")
        parts = content if isinstance(content, list) else []
        media = {f"{kind}s": [part[kind].value for part in parts if hasattr(part.get(kind), "value")] or None
                 for kind in ("image", "video")}
        self.play(self.session.stream_edit(text, keep_partial=True, **media))

    def last_question(self) -> dict[str, Any]:
        """The user's last message. UsageError if there is none."""
        found = [message for message in self.session.messages if message["role"] == "user"]
        if not found:
            raise UsageError("nothing has been asked yet", where="the conversation")
        return found[-1]

    def play(self, events: Iterator[ChatEvent]) -> None:
        """Shows a turn; Ctrl-C ends it, and what was said so far counts."""
        self.thoughts, self.last = "", None
        ended, stopped, said = None, False, False
        try:
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    self.show(event)
                    ended = event.finish_reason or ended
                    said = said or bool(event.text or event.reasoning or event.tool_calls)
        except KeyboardInterrupt:
            if not self.at_keyboard:
                raise
            stopped = True
        finally:
            self.screen.end()
        for call in self.session.pending if stopped else ():
            self.session.add_result(call, STOPPED)
        if stopped:
            self.screen.note("stopped; /retry answers again, /undo takes the question back")
        elif ended == "length" and self.at_keyboard:
            self.screen.note("cut off at the most tokens: /set max_tokens N")
        elif not said and self.at_keyboard:
            self.screen.note("the model said nothing, and the question doesn't count")
        if self.stats and self.last is not None:
            self.screen.note(summary(self.last))

    def show(self, event: ChatEvent) -> None:
        """One step of a turn."""
        if event.reasoning:
            self.thoughts += event.reasoning
            self.screen.thought(event.reasoning)
        if event.text:
            self.screen.text(event.text)
        for call in event.tool_calls:
            self.screen.call(call)
        for rejected in event.rejected:
            self.screen.note(f"a call that can't be read ({rejected.reason}: {rejected.detail}): {rejected.raw}")
        for result in event.results:
            self.screen.result(result)
        if event.piece is not None:
            self.last = event.piece.stats

    def renew(self, model: Any, processor: Any, tools: dict[str, Callable]) -> None:
        """The conversation goes on with another model, or other tools."""
        old = self.session
        history = old.messages[old.instructions is not None:]
        self.session = ChatSession(model, processor, instructions=old.instructions, history=history,
                                   tools=[*tools.values()] or None, approve=self.approve, **old.parameters)
        self.tools = tools


class Ask:
    """Asks at the terminal whether a call may be made, until a tool's calls are allowed for good."""

    def __init__(self, screen: Plain):
        self.screen, self.allowed = screen, set()

    def __call__(self, call: Any) -> bool:
        if call.name in self.allowed:
            return True
        try:
            answer = input(f"  Run {call.name}? [y]es, [n]o, [a]lways: ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            self.screen.page("")
            return False
        if answer in ("a", "always"):
            self.allowed.add(call.name)
        return answer in ("y", "yes", "a", "always")
