"""Messages for templates that refuse them, or leave parts of them out: they get what they can take, and it is told.

A refused or unread system message goes to the front of the user's; two messages of one role become one; several calls
in one message become one message each; tools that a template knows nothing of are described in the system message.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from mlxlm.errors import TemplateError
from mlxlm.text.messages import check_messages
from mlxlm.text.template import render

Messages = list[dict[str, Any]]
PROBE = "the-probe-of-a-system-message"
TOOLS_PROMPT = (
    "You can call the functions that are described below as JSON. To call one, write its name and its arguments as "
    'a JSON object between tags: <tool_call>{{"name": "...", "arguments": {{...}}}}</tool_call>. The result is given '
    "to you between <tool_response> tags.\n<tools>\n{tools}\n</tools>")


def adapted(tokenizer: Any, messages: Sequence[Any], tools: Sequence[Any] | None,
            draw: Callable[[Messages, Sequence[Any] | None], str]) -> str:
    """What ``draw`` makes of the messages and tools: as they are, else changed into what the template takes.

    A change is told by a warning; where none helps, the template's own refusal is raised.
    """
    plain = check_messages(list(messages))
    template = _template_of(tokenizer, tools)
    told: list[str] = []
    if template is not None and not knows_tools(template) and (tools or _has_calls(plain)):
        plain, tools = with_tools_in_text(plain, tools), None
        told.append("tools are described in the system message, in a general form")
    if template is not None and plain[0]["role"] == "system" and drops_system(template):
        plain = system_to_user(plain)
        told.append("the system message stands in front of the user's")
    try:
        text = draw(plain, tools)
    except TemplateError as error:
        if not error.refused:
            raise
        text = _second_try(plain, tools, draw, told, error)
    if told:
        warnings.warn(f"{tokenizer.name}: the chat template can't take these messages as they are: "
                      f"{'; '.join(told)}", stacklevel=2)
    return text


def _second_try(messages: Messages, tools: Any, draw: Callable[..., str], told: list[str],
                error: TemplateError) -> str:
    """The messages changed in as few ways as will do."""
    ways = [name for name in CHANGES if CHANGES[name][0](messages) != messages]
    for chosen in (*([one] for one in ways), ways):
        changed = messages
        for name in chosen:
            changed = CHANGES[name][0](changed)
        try:
            text = draw(changed, tools)
        except TemplateError:
            continue
        told += [CHANGES[name][1] for name in chosen]
        return text
    raise error


def system_to_user(messages: Messages) -> Messages:
    """The system message in front of the first message of the user; a message of the user where there is none."""
    if messages[0]["role"] not in ("system", "developer"):
        return messages
    first, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": first.get("content", "")}, *rest]
    return [{**rest[0], "content": _joined(first.get("content", ""), rest[0].get("content", ""))}, *rest[1:]]


def one_turn_each(messages: Messages) -> Messages:
    """Neighbours of one role as one message; calls and results stay as they are."""
    out: Messages = []
    for message in messages:
        last = out[-1] if out else {}
        mergeable = message["role"] in ("user", "assistant", "system") and last.get("role") == message["role"]
        if mergeable and not message.get("tool_calls") and not last.get("tool_calls"):
            out[-1] = {**last, "content": _joined(last.get("content", ""), message.get("content", ""))}
        else:
            out.append(message)
    return out


def one_call_each(messages: Messages) -> Messages:
    """Messages with several calls as one for each, with its own result behind it."""
    out: Messages = []
    waiting: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool" and waiting:
            wanted = message.get("tool_call_id")
            own = next((one for one in waiting if one["tool_calls"][0].get("id") == wanted), waiting[0])
            waiting.remove(own)
            out += [own, message]
            continue
        out, waiting = out + waiting, []
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            out.append(message)
            continue
        parts = [{**message, "tool_calls": [call]} for call in calls]
        waiting = [parts[0], *({**part, "content": ""} for part in parts[1:])]
    return out + waiting


CHANGES: dict[str, tuple[Callable[[Messages], Messages], str]] = {
    "turns": (one_turn_each, "messages of one role in a row are one"),
    "system": (system_to_user, "the system message stands in front of the user's"),
    "calls": (one_call_each, "several calls of one message stand in one each"),
}


def _joined(one: Any, other: Any) -> Any:
    """Two contents with an empty line between; parts stay parts."""
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}" if one and other else one or other
    parts = [content if isinstance(content, list) else [{"type": "text", "text": content}] for content in (one, other)]
    gap = [{"type": "text", "text": "\n\n"}] if one and other else []
    return [*parts[0], *gap, *parts[1]]


def _has_calls(messages: Messages) -> bool:
    return any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def knows_tools(template: str) -> bool:
    """Whether a template reads the variable ``tools`` at all."""
    return re.search(r"\btools\b", template) is not None


def with_tools_in_text(messages: Messages, tools: Sequence[Any] | None) -> Messages:
    """The messages with tools, calls and results as text: Hermes' form, which most models have seen."""
    out: Messages = []
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{_text(message.get('content', ''))}\n</tool_response>"
            if out and out[-1].get("results"):
                out[-1]["content"] += f"\n{text}"
            else:
                out.append({"role": "user", "content": text, "results": True})
        elif message.get("tool_calls"):
            functions = [call.get("function", call) for call in message["tool_calls"]]
            calls = [f"<tool_call>\n{_json(function)}\n</tool_call>" for function in functions]
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            out.append({**rest, "content": "\n".join(filter(None, [_text(message.get("content", "")), *calls]))})
        else:
            out.append(message)
    out = [{key: value for key, value in message.items() if key != "results"} for message in out]
    if not tools:
        return out
    told = TOOLS_PROMPT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if out[0]["role"] == "system":
        return [{**out[0], "content": _joined(out[0].get("content", ""), told)}, *out[1:]]
    return [{"role": "system", "content": told}, *out]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in content)


def _json(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return json.dumps({"name": function.get("name"), "arguments": arguments}, ensure_ascii=False)


@lru_cache(maxsize=32)
def drops_system(template: str) -> bool:
    """Whether a template leaves a system message out without a word."""
    chat = [{"role": "system", "content": PROBE}, {"role": "user", "content": "Hi"}]
    try:
        return PROBE not in render(template, chat, variables={"bos_token": "", "eos_token": ""}).text
    except TemplateError:
        return False


def _template_of(tokenizer: Any, tools: Sequence[Any] | None) -> str | None:
    """The template's text, if the tokenizer is one that has it."""
    if not callable(get := getattr(tokenizer, "get_chat_template", None)):
        return None
    template = get(None, tools)
    return template if isinstance(template, str) else None


def for_translation(messages: Sequence[Any], variables: Mapping[str, Any]) -> Messages:
    """TranslateGemma's messages: each of the user's has its languages; its template takes no others than answers.

    ``source_lang_code`` and ``target_lang_code`` are among the variables, or in the messages' own parts.
    """
    codes = {key: variables[key] for key in ("source_lang_code", "target_lang_code") if key in variables}
    out: Messages = []
    for message in check_messages(list(messages)):
        content = message.get("content", "")
        if message["role"] == "user" and isinstance(content, str) and codes:
            out.append({"role": "user", "content": [{"type": "text", **codes, "text": content}]})
        elif message["role"] in ("user", "assistant"):
            out.append(message)
    return out


GENERATORS: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Messages]] = {"translategemma3": for_translation}
"""What ``ModelConfiguration.message_generator`` may name."""
