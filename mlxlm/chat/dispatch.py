"""Tools at work: which function a call is for, whether its arguments fit, and what it gives, errors included."""

from __future__ import annotations

import asyncio
import enum
import inspect
import threading
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from ..errors import GenerationError, UsageError
from ..text.messages import plain
from ..tools import ToolCall
from ..tools.functions import is_model, tool_schemas
from ..tools.jsontext import encode
from ..tools.validate import problem

Approve = Callable[[ToolCall], Any]
Wait = Callable[[Awaitable[Any]], Any]


@dataclass(frozen=True)
class ToolResult:
    """What a call gave: ``content`` is the text that the model is told, ``value`` the function's own result."""

    call: ToolCall
    content: str
    value: Any = None
    error: bool = False


class Toolkit:
    """The tools of a conversation: schemas for the model, functions to call.

    A dict or a pydantic model has no function of its own: its calls are the caller's to answer, unless ``functions``
    has one of its name. Raises UsageError for a tool that isn't one, or two of one name.
    """

    def __init__(self, tools: Iterable[Any] | None, functions: Mapping[str, Callable[..., Any]] | None = None,
                 approve: Approve | None = None):
        listed = None if tools is None else list(tools)
        self.schemas = tool_schemas(listed)
        names = [schema["function"]["name"] for schema in self.schemas or ()]
        for name in names:
            if names.count(name) > 1:
                raise UsageError("two tools have one name", where="tools", found=name)
        own = zip(names, listed or (), strict=True)
        self.functions = {name: tool for name, tool in own if callable(tool) and not is_model(tool)}
        for name, function in (functions or {}).items():
            if name not in names or not callable(function):
                raise UsageError("this function is for no tool", where="functions", found=name,
                                 expected=f"one of {', '.join(names)}")
            self.functions[name] = function
        self.parameters = {s["function"]["name"]: s["function"].get("parameters") or {} for s in self.schemas or ()}
        if approve is not None and not callable(approve):
            raise GenerationError("not a function", where="approve", found=type(approve).__name__)
        self.approve = approve

    def answers(self, call: ToolCall) -> bool:
        """Whether a call is ours to answer: by its function, or by saying that there is no such tool."""
        return call.name in self.functions or call.name not in self.parameters

    def run(self, call: ToolCall, wait: Wait) -> ToolResult:
        """Runs one call, and waits for it with ``wait`` where it is asynchronous; what goes wrong is the result."""
        function = self.functions.get(call.name)
        if function is None:
            return failed(call, f"there is no tool named {call.name!r}; there are: {', '.join(self.parameters)}")
        wrong = self._wrong(function, call.arguments, self.parameters[call.name])
        if wrong is not None:
            return failed(call, f"wrong arguments: {wrong}")
        refused = self._refusal(call, wait)
        if refused is not None:
            return failed(call, refused)
        try:
            value = function(**_made(function, call.arguments))
            value = wait(value) if inspect.isawaitable(value) else value
        except Exception as error:  # broad: a tool is the user's code, and whatever it raises the model is told
            return failed(call, f"{type(error).__name__}: {error}", error)
        return ToolResult(call, told(value), value)

    @staticmethod
    def _wrong(function: Callable[..., Any], arguments: dict[str, Any], schema: Any) -> str | None:
        found = problem(arguments, schema, schema)
        if found is not None:
            return found
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            return str(error)
        except ValueError:  # a builtin without a signature says itself what it doesn't take
            return None
        return None

    def _refusal(self, call: ToolCall, wait: Wait) -> str | None:
        """Why a call may not be made, if whoever is asked says no."""
        if self.approve is None:
            return None
        answer = self.approve(call)
        answer = wait(answer) if inspect.isawaitable(answer) else answer
        if isinstance(answer, str):
            return answer
        return None if answer else "the user declined this call"


def failed(call: ToolCall, problem: str, error: Any = None) -> ToolResult:
    """A result that tells the model what went wrong."""
    return ToolResult(call, encode({"error": problem}), error, True)


def told(value: Any) -> str:
    """A tool's result as the text that the model reads: text as it is, data as JSON, anything else by ``str``."""
    if isinstance(value, str):
        return value
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError):
        pass
    if is_dataclass(value) or callable(getattr(value, "model_dump", None)) or isinstance(value, (list, tuple, Mapping)):
        try:
            return encode(plain(value))
        except (TypeError, ValueError, RecursionError, UsageError):
            pass
    return str(value)


def _made(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function's hints ask for: pydantic models, dataclasses and enums are made of their JSON."""
    try:
        hints = typing.get_type_hints(function)
    except (TypeError, NameError, AttributeError):
        return dict(arguments)
    return {name: _one(hints.get(name), value) for name, value in arguments.items()}


def _one(hint: Any, value: Any) -> Any:
    if is_model(hint):
        return hint.model_validate(value)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        return hint(**value)
    return hint(value) if isinstance(hint, type) and issubclass(hint, enum.Enum) else value


def wait_here(awaitable: Awaitable[Any]) -> Any:
    """Waits for something asynchronous from plain code: in a loop of its own, in a thread where one runs already."""
    async def whole() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(whole())
    box: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            box.append(asyncio.run(whole()))
        except BaseException as error:  # broad: carried over to the thread that waits, and raised there
            errors.append(error)

    thread = threading.Thread(target=work, name="mlxlm-tool")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return box[0]
