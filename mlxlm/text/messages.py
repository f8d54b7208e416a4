"""Messages at the border: checked and copied into plain data, so that a template sees nothing but JSON types.

As in transformers: keys whose value is None are dropped, `reasoning_content`, `thinking` and `reasoning` stand for
each other, and the arguments of tool calls are passed on as they are (most templates want an object, not JSON text).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlxlm.errors import UsageError

REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names under which a message's reasoning comes; templates read the first or the second."""


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """A copy of the messages as plain data. A string is one message of the user.

    Raises UsageError that names the message's index and field.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, (bytes, bytearray)):
        raise UsageError("not a list of messages", where="messages", found=type(messages).__name__,
                         expected='[{"role": "user", "content": "…"}]')
    if not messages:
        raise UsageError("there is no message", where="messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    copied = plain(message)
    if not isinstance(copied, dict):
        raise UsageError("not a message", where=where, found=type(message).__name__,
                         expected='{"role": …, "content": …}')
    copied = {key: value for key, value in copied.items() if value is not None}
    if not isinstance(copied.get("role"), str) or not copied["role"]:
        raise UsageError("a message needs a role", where=f"{where}.role", found=repr(copied.get("role"))[:80],
                         expected='text, such as "user"')
    _check_content(copied.get("content", ""), f"{where}.content")
    calls = copied.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UsageError("not a list of tool calls", where=f"{where}.tool_calls", found=repr(calls)[:80])
    reasoning = next((copied[key] for key in REASONING if key in copied), None)
    if reasoning is not None:
        copied = {"thinking": reasoning, **copied, "reasoning_content": reasoning}
    return copied


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise UsageError("neither text nor a list of parts", where=where, found=type(content).__name__)
    for index, part in enumerate(content):
        if isinstance(part, str):
            continue
        if not isinstance(part, dict):
            raise UsageError("not a part of a message", where=f"{where}[{index}]", found=type(part).__name__,
                             expected='{"type": "text", "text": "…"}')
        if "text" in part and not isinstance(part["text"], str):
            raise UsageError("not text", where=f"{where}[{index}].text", found=type(part["text"]).__name__)


def check_objects(values: Any, name: str) -> list[dict[str, Any]] | None:
    """A copy of the tools or documents as plain data."""
    if values is None:
        return None
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise UsageError(f"not a list of {name}", where=name, found=type(values).__name__)
    copied = [plain(value) if not callable(value) else None for value in values]
    for index, value in enumerate(copied):
        if not isinstance(value, dict):
            raise UsageError(f"not an object: {name} are given as JSON objects (a tool as its JSON schema)",
                             where=f"{name}[{index}]", found=type(values[index]).__name__)
    return copied  # pyright: ignore[reportReturnType]


def plain(value: Any) -> Any:
    """JSON types all the way down: objects with fields become dicts, and anything else its type's name.

    A template can call methods of what it is given; plain data has none that matter.
    """
    try:
        return _plain(value)
    except RecursionError as error:
        raise UsageError("nested too deeply, or holds itself", where="messages") from error


def _plain(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    for base in (str, int, float):
        if isinstance(value, base):
            return {str: str.__str__, int: int.__int__, float: float.__float__}[base](value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        return _plain(dump())
    return f"<{type(value).__name__}>"
