"""What is typed at a terminal: history, completion, pasted lines, and a backslash that goes on in the next line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .repl_commands import COMMANDS

if TYPE_CHECKING:
    from .repl import Repl


def history_file() -> Path:
    """Where questions are kept: in the state folder (XDG_STATE_HOME, else ~/.local/state)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mlxlm" / "chat_history"


def typed(repl: Repl) -> Iterator[str]:
    """What is typed, turn by turn, until Ctrl-D; Ctrl-C clears the line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    output = None if sys.stdout.isatty() else create_output(always_prefer_tty=True)  # the answers are piped on
    session: Any = PromptSession(history=_history(repl), completer=_completer(repl), key_bindings=_keys(),
                                 multiline=True, complete_while_typing=_slash(), enable_open_in_editor=True,
                                 prompt_continuation="… ", output=output)
    while True:
        prefill, repl.prefill = repl.prefill, ""
        try:
            text = session.prompt(_prompt(repl), default=prefill)
        except EOFError:
            return
        except KeyboardInterrupt:
            repl.editing = False
            continue
        if text.strip():
            yield text


def _prompt(repl: Repl) -> str:
    waiting = len(repl.images) + len(repl.videos)
    return f"({waiting} attached) > " if waiting else "> "


def _history(repl: Repl) -> Any:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a"):
            return FileHistory(str(path))
    except OSError as error:
        repl.screen.note(f"what is typed won't be remembered: {path}: {error.strerror}")
        return InMemoryHistory()


def _slash() -> Any:
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition

    return Condition(lambda: get_app().current_buffer.text.startswith("/"))


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None  # what was chosen is in the line already
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _alt_enter(event: Any) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def offered(repl: Repl, text: str) -> Iterable[str]:
    """Completions of a line's text but for paths: whole words for what stands behind the last blank."""
    name, blank, rest = text.partition(" ")
    if not blank:
        return [one for one in COMMANDS if one.startswith(name)] if name.startswith("/") else []
    offers = COMMANDS[name].offers if name in COMMANDS else None
    if offers == "model":
        return [one for one in model_names() if one.lower().startswith(rest.lower())]
    return [one for one in offers(repl) if one.startswith(rest)] if callable(offers) else []


def model_names() -> list[str]:
    """Presets and what has been downloaded."""
    from ..registry import LLMRegistry, VLMRegistry
    from ..sources.store import stored

    return sorted({*LLMRegistry.names, *VLMRegistry.names, *(model.name for model in stored())}, key=str.lower)


def _completer(repl: Repl) -> Any:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Offers(Completer):
        def get_completions(self, document, complete_event):
            text = document.text_before_cursor
            name, blank, rest = text.partition(" ")
            for one in offered(repl, text):
                about = "" if blank or one not in COMMANDS else COMMANDS[one].help
                yield Completion(one, start_position=-len(rest if blank else name), display_meta=about)
            wanted = COMMANDS[name].offers if blank and name in COMMANDS else None
            if wanted == "path" or (wanted == "model" and rest[:1] in ("/", ".", "~")):
                yield from PathCompleter(expanduser=True).get_completions(Document(rest), complete_event)

    return Offers()
