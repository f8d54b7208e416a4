"""Calls and results on their way into a conversation: as messages for a chat template, and as a model's own text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlxlm.errors import UsageError

from .calls import ParsedOutput, ToolCall
from .formats import find
from .jsontext import encode
from .stream import parse


def format(calls: Sequence[ToolCall], format: str, tools: Iterable[Any] | None = None) -> str:
    """The calls as a model writes them in that format.

    What is written reads back as the same calls, or it isn't written: UsageError where a format has no way to write
    a name or a value. Without ``tools``, formats that write all values as text are held to the text alone.
    """
    if not calls:
        return ""
    tools = None if tools is None else list(tools)
    kind = find(format)
    try:
        text = kind.write(calls)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"these arguments aren't JSON: {error}", where=f"format {format}") from error
    back = parse(text, format, tools)
    same = not back.rejected and not back.reasoning and not back.content.strip() and _names(back.tool_calls) == _names(
        calls) and (kind.write([_with_id(call, own) for call, own in zip(back.tool_calls, calls, strict=True)]) == text
                    if tools is None else [c.arguments for c in back.tool_calls] == [c.arguments for c in calls])
    if not same:
        raise UsageError("this format can't write these calls", where=f"format {format}",
                         found=repr([(call.name, call.arguments) for call in calls])[:120],
                         hint="A name or a value holds the format's own markers, or a tool isn't declared.")
    return text


def _names(calls: Sequence[ToolCall]) -> list[tuple[str, list[str]]]:
    return [(call.name, list(call.arguments)) for call in calls]


def _with_id(call: ToolCall, own: ToolCall) -> ToolCall:
    return ToolCall(call.name, call.arguments, own.id)


def assistant_message(output: ParsedOutput) -> dict[str, Any]:
    """A parsed output as the assistant's message that a chat template takes, with arguments as objects."""
    message: dict[str, Any] = {"role": "assistant", "content": output.content}
    if output.reasoning:
        message["reasoning_content"] = output.reasoning
    if output.tool_calls:
        message["tool_calls"] = [call_message(call) for call in output.tool_calls]
    return message


def call_message(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


def result_message(call: ToolCall, result: Any) -> dict[str, Any]:
    """A tool's result as the message that answers ``call``; what isn't text is written as JSON."""
    try:
        content = result if isinstance(result, str) else encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"a tool's result must be text or JSON: {error}", where=call.name,
                         found=type(result).__name__) from error
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content}
