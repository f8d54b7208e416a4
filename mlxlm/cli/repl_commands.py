"""The commands of a conversation, each a function of the loop and of what was typed behind the command's name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MediaError, SourceError, UsageError

if TYPE_CHECKING:
    from .repl import Repl

SETTABLE = ("max_tokens", "temperature", "top_p", "min_p", "top_k", "xtc_probability", "xtc_threshold", "seed", "stop",
            "repetition_penalty", "repetition_context_size", "presence_penalty", "frequency_penalty", "max_kv_size",
            "reasoning_budget", "num_draft_tokens", "prompt_lookup", "response_format", "tool_choice",
            "prefill_step_size")


class Leave(Exception):
    """The user leaves the conversation."""


@dataclass(frozen=True)
class Command:
    """One command: ``usage`` is what follows its name; ``offers`` words for completion, or "path" or "model"."""

    run: Callable[[Repl, str], None]
    usage: str
    help: str
    offers: Callable[[Repl], Iterable[str]] | str | None = None


COMMANDS: dict[str, Command] = {}


def command(name: str, usage: str, help: str, offers: Callable[[Repl], Iterable[str]] | str | None = None) -> Callable:
    def register(function: Callable[[Repl, str], None]) -> Callable[[Repl, str], None]:
        COMMANDS[name] = Command(function, usage, help, offers)
        return function

    return register


@command("/help", "", "this list")
def help_(repl: Repl, rest: str) -> None:
    rows = [(f"{name} {row.usage}".rstrip(), row.help) for name, row in COMMANDS.items()]
    width = max(len(left) for left, _ in rows)
    keys = [("", ""), ("\\ at a line's end", "the question goes on in the next line; Alt-Enter too"),
            ("Ctrl-C", "stops an answer, or clears what is typed"), ("Ctrl-D", "leaves"),
            ("Ctrl-R", "searches what was typed before")] if repl.at_keyboard else []
    repl.screen.page("\n".join(f"  {left:<{width}}  {right}".rstrip() for left, right in rows + keys))


@command("/model", "[MODEL]", "the model, or another one for the same conversation", "model")
def model(repl: Repl, rest: str) -> None:
    if rest:
        made = repl.load(rest)
        if not made[1].has_chat_template:
            raise UsageError("the model has no chat template", where=rest)
        repl.renew(*made, repl.tools)
        repl.name = rest
    repl.screen.page(repl.name)


@command("/system", "[TEXT|off]", "the system message; another one; none", lambda repl: ["off"])
def system(repl: Repl, rest: str) -> None:
    if rest:
        repl.session.instructions = None if rest == "off" else rest
    else:
        repl.screen.page(repl.session.instructions or "no system message")


@command("/image", "PATH", "a picture for the next question, by path or URL", "path")
def image(repl: Repl, rest: str) -> None:
    _attach(repl, rest, "image", repl.images)


@command("/video", "PATH", "a film for the next question, by path or URL", "path")
def video(repl: Repl, rest: str) -> None:
    _attach(repl, rest, "video", repl.videos)


def _attach(repl: Repl, rest: str, kind: str, waiting: list[str]) -> None:
    if not rest:
        raise UsageError(f"which {kind}?", where=f"/{kind}", expected="a path or a URL")
    if kind not in getattr(repl.session.processor, "markers", {}):
        raise MediaError(f"this model takes no {kind}s", where=f"/{kind}", found=repl.name,
                         hint="/model loads another one.")
    if not rest.startswith(("http://", "https://", "data:")):
        path = Path(_unquoted(rest)).expanduser()
        if not path.is_file():
            raise MediaError("there is no such file", where=f"/{kind}", found=str(path))
        rest = str(path)
    waiting.append(rest)
    repl.screen.note(f"{len(repl.images) + len(repl.videos)} attached to the next question")


@command("/tools", "[add MODULE:FUNCTION | remove NAME]", "the functions that the model may call",
         lambda repl: ["add", "remove", *(f"remove {name}" for name in repl.tools)])
def tools(repl: Repl, rest: str) -> None:
    from .repl_tools import named_tools

    action, _, name = rest.partition(" ")
    if action == "add":
        repl.renew(repl.session.model, repl.session.processor, {**repl.tools, **named_tools([name.strip()])})
    elif action == "remove" and name in repl.tools:
        left = {own: function for own, function in repl.tools.items() if own != name}
        repl.renew(repl.session.model, repl.session.processor, left)
    elif rest:
        raise UsageError("not understood", where="/tools", found=rest, expected=COMMANDS["/tools"].usage)
    schemas = repl.session.toolkit.schemas or []
    rows = [f"  {one['function']['name']}  {one['function'].get('description', '')}".rstrip() for one in schemas]
    repl.screen.page("\n".join(rows) or "no tools")


@command("/set", "[NAME [VALUE|default]]", "the parameters of generation", lambda repl: SETTABLE)
def set_(repl: Repl, rest: str) -> None:
    from ..chat.session import MAX_TOKENS
    from ..generate import GenerateParameters

    name, _, value = rest.replace("=", " ", 1).partition(" ")
    if name and name not in SETTABLE:
        from difflib import get_close_matches

        close = get_close_matches(name, SETTABLE, 1)
        raise UsageError("no such parameter", where="/set", found=name,
                         hint=f"Did you mean {close[0]}?" if close else f"There are: {', '.join(SETTABLE)}.")
    changed = dict(repl.session.parameters)
    if value.strip() == "default":
        changed.pop(name, None)
        changed = {"max_tokens": MAX_TOKENS, **changed}
    elif value.strip():
        changed[name] = _value(value.strip())
    made = GenerateParameters.of(changed)
    made.loop_arguments()
    made.stop_strings()
    repl.session.parameters = changed
    shown = [name] if name else SETTABLE
    repl.screen.page("\n".join(f"  {one:<{max(map(len, shown))}}  {_shown(getattr(made, one))}" for one in shown))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    return "none" if value is None or value == () else json.dumps(value, ensure_ascii=False, default=str)


@command("/think", "show|hide|on|off", "reasoning: shown or folded, turned on or off",
         lambda repl: ("show", "hide", "on", "off"))
def think(repl: Repl, rest: str) -> None:
    if rest in ("show", "hide"):
        folded = getattr(repl.screen, "folded", False)
        if hasattr(repl.screen, "folded"):
            repl.screen.folded = rest == "hide"  # type: ignore[attr-defined]
        if rest == "show" and folded and repl.thoughts:
            repl.screen.note(repl.thoughts.strip("\n"))
        return
    if rest not in ("on", "off"):
        raise UsageError("not understood", where="/think", found=repr(rest), expected="show, hide, on or off")
    from ..generate.conventions import conventions_of

    conventions_of(repl.session.model, repl.session.processor).template_switch(rest == "on")
    repl.session.parameters["enable_thinking"] = rest == "on"
    repl.screen.note(f"reasoning is {rest}")


@command("/retry", "", "answers the last question once more")
def retry(repl: Repl, rest: str) -> None:
    repl.play(repl.session.stream_retry(keep_partial=True))


@command("/undo", "", "takes the last question and its answer back")
def undo(repl: Repl, rest: str) -> None:
    taken = repl.session.undo()
    repl.screen.note(f"taken back: {text_of(taken[0])[:60]}")


@command("/edit", "[TEXT]", "another question in the place of the last; without TEXT, to be typed")
def edit(repl: Repl, rest: str) -> None:
    if rest:
        repl.edit(rest)
        return
    repl.prefill, repl.editing = text_of(repl.last_question()), True


@command("/save", "FILE", "the conversation as a file, to be loaded again", "path")
def save(repl: Repl, rest: str) -> None:
    path = _path(rest, "/save")
    repl.session.save(path)
    repl.screen.note(f"saved as {path}")


@command("/load", "FILE", "a conversation that was saved", "path")
def load(repl: Repl, rest: str) -> None:
    from ..chat import ChatSession

    old = repl.session
    repl.session = ChatSession.load(_path(rest, "/load"), old.model, old.processor, approve=repl.approve,
                                    tools=[*repl.tools.values()] or None, **old.parameters)
    repl.screen.note(f"{len(repl.session.messages)} messages")


@command("/export", "FILE", "the conversation as .md, or its messages as .json", "path")
def export(repl: Repl, rest: str) -> None:
    path = _path(rest, "/export")
    messages = repl.session.messages
    text = json.dumps(messages, ensure_ascii=False, indent=1, default=str) if path.suffix == ".json" else \
        "\n\n".join(f"## {message['role']}\n\n{text_of(message)}" for message in messages)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SourceError(f"it can't be written ({error.strerror})", where=path) from error
    repl.screen.note(f"{len(messages)} messages in {path}")


@command("/stats", "", "speed, context and memory so far")
def stats(repl: Repl, rest: str) -> None:
    from ..files import size
    from .generate import summary

    memory, last = repl.session.memory, repl.last
    most = getattr(getattr(repl.session.model, "config", None), "max_position_embeddings", None)
    lines = [f"context {len(memory.keys):,}{f' of {most:,}' if isinstance(most, int) else ''} tokens"
             f" · cache {size(memory.nbytes)}"]
    if last is not None:
        lines += [summary(last), f"first token after {last.time_to_first_token:.2f} s"
                  f" · {last.cached_tokens} tokens weren't read again"]
        if last.draft_tokens:
            lines.append(f"{last.acceptance_rate:.0%} of {last.draft_tokens} guessed tokens were right")
    repl.screen.page("\n".join(lines))


@command("/clear", "", "forgets the conversation")
def clear(repl: Repl, rest: str) -> None:
    repl.session.clear()
    repl.images, repl.videos, repl.editing = [], [], False


@command("/exit", "", "leaves")
def exit_(repl: Repl, rest: str) -> None:
    raise Leave


def _path(rest: str, where: str) -> Path:
    if not rest:
        raise UsageError("which file?", where=where, expected="a path")
    return Path(_unquoted(rest)).expanduser()


def _unquoted(text: str) -> str:
    """A path as terminals paste it: in quotes, or with blanks escaped."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text.replace("\\ ", " ")


def text_of(message: dict[str, Any]) -> str:
    """A message's text, with its reasoning left out and its calls and media named."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else \
        [part.get("text") or f"({part.get('type')})" for part in content if isinstance(part, dict)]
    calls = [json.dumps(call.get("function", call), ensure_ascii=False, default=str)
             for call in message.get("tool_calls") or ()]
    return "\n".join([*parts, *calls])
