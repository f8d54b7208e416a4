"""Where a prompt comes from: an argument, a file, standard input, or messages as JSON; exactly one of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SourceError, UsageError
from .options import json_object

Messages = list[dict[str, Any]]
EXAMPLE = '[{"role": "user", "content": "Hello"}]'
ROLES = ("system", "developer", "user", "assistant", "tool")


def model_and_prompt(arguments: tuple[str, ...], model: str | None, prompt: str | None) -> tuple[str, str | None]:
    """``[MODEL] [PROMPT]`` and ``--model M --prompt P`` in any mixture, as (model, prompt or None)."""
    rest = list(arguments)
    if model is None:
        if not rest:
            raise UsageError("no model was given", expected="MODEL PROMPT, or --model and --prompt",
                             hint="`mlxlm registry` lists presets.")
        model = rest.pop(0)
    if rest and prompt is None:
        prompt = rest.pop(0)
    if rest:
        raise UsageError("unexpected argument", found=repr(rest[0]), expected="one model and one prompt",
                         hint="Quote a prompt of several words; repeat options for several values.")
    return model, prompt


def read_prompt(prompt: str | None, prompt_file: str | None, messages: str | None) -> str | Messages:
    """The prompt's text, or its messages; ``-`` and, where nothing else is given, a pipe mean standard input.

    Raises UsageError for none or two, SourceError and ConfigError for files that can't be read or understood.
    """
    given = [name for name, value in (("a prompt", prompt), ("--prompt-file", prompt_file), ("--messages", messages))
             if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were given", expected="one of them")
    if messages is not None:
        return read_messages(read_text(messages), "standard input" if messages == "-" else messages)
    if prompt is not None and prompt != "-":
        return _said(prompt, "the prompt")
    if prompt is None and prompt_file is None and sys.stdin.isatty():
        raise UsageError("no prompt was given", expected="text, --prompt-file, --messages, or text piped in",
                         hint="For a conversation: mlxlm chat MODEL")
    file = "-" if prompt_file is None else prompt_file
    return _said(read_text(file), "standard input" if file == "-" else file)


def read_text(file: str) -> str:
    """A file's text, or that of standard input for ``-``."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise SourceError(f"it can't be read ({error.strerror})", where=file) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"it isn't UTF-8 text (byte {error.start})", where=file) from error


def read_messages(text: str, where: str) -> Messages:
    """Messages from JSON: a list of objects, or an object that has one under ``messages``."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON ({error})", where=where, expected=EXAMPLE) from error
    if isinstance(value, dict):
        value = value.get("messages")
    if not isinstance(value, list) or not value:
        raise ConfigError("not a list of messages", where=where, expected=EXAMPLE)
    for i, message in enumerate(value):
        _check(message, f"{where}: message {i + 1}")
    return value


def _check(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise ConfigError("not an object", where=where, found=json.dumps(message)[:60])
    if message.get("role") not in ROLES:
        raise ConfigError("the role isn't known", where=where, found=json.dumps(message.get("role")),
                          expected=", ".join(ROLES))
    content = message.get("content")
    if not isinstance(content, (str, list)) and not (content is None and message.get("tool_calls")):
        raise ConfigError("content must be text", where=where, found=json.dumps(content)[:60])


def conversation(prompt: str | Messages, options: Mapping[str, Any]) -> tuple[Messages, dict[str, Any]]:
    """The messages for the chat template, and its further variables, from a prompt and the template's options."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if options["system_prompt"] is not None:
        if messages[0]["role"] == "system":
            raise UsageError("the messages have a system message already", where="--system-prompt")
        messages.insert(0, {"role": "system", "content": options["system_prompt"]})
    more = json_object(options["chat_template_config"] or "{}", "--chat-template-config")
    if options.get("prefill_response") is not None:
        messages.append({"role": "assistant", "content": options["prefill_response"]})
        more |= {"add_generation_prompt": False, "continue_final_message": True}
    return messages, more


def _said(text: str, where: str) -> str:
    if not text.strip():
        raise UsageError("empty", where=where, expected="some text")
    return text
