"""Tools as a model is told of them: JSON schemas, from Python functions, pydantic models, or as they come."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union

from mlxlm.errors import UsageError

from . import docstrings

SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", bytes: "string", type(None): "null"}
CHOICES = re.compile(r"\(choices:\s*(\[.*?\])\s*\)\s*\Z", re.IGNORECASE | re.DOTALL)
DEEPEST = 16


def tool_schemas(tools: Iterable[Any] | None) -> list[dict[str, Any]] | None:
    """The tools in OpenAI's form, ``{"type": "function", "function": {…}}``; None stays None.

    A tool is a function (signature, type hints and docstring say what it takes), a pydantic model (its fields), or a
    dict: in OpenAI's form, or with name and parameters alone. Raises UsageError for anything else.
    """
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise UsageError("not a list of tools", where="tools", found=type(tools).__name__)
    return [tool_schema(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def tool_schema(tool: Any, where: str = "tools") -> dict[str, Any]:
    """One tool in OpenAI's form."""
    if isinstance(tool, Mapping):
        inner = tool.get("function", tool)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str) or not inner["name"]:
            raise UsageError("a tool needs a name", where=where, found=repr(tool)[:60],
                             expected='{"type": "function", "function": {"name": …, "parameters": {…}}}')
        return dict(tool) if inner is not tool else {"type": "function", "function": dict(tool)}
    if is_model(tool):
        schema = _flat(tool.model_json_schema())
        parameters = {key: value for key, value in schema.items() if key not in ("title", "description")}
        return _tool(tool.__name__, inspect.getdoc(tool) or "", parameters)
    if callable(tool):
        return function_schema(tool, where)
    raise UsageError("not a tool", where=where, found=repr(tool)[:60],
                     expected="a function, a pydantic model, or a dict with a name and a JSON schema")


def is_model(tool: Any) -> bool:
    """Whether a tool is a pydantic model: a class that describes its fields."""
    return isinstance(tool, type) and callable(getattr(tool, "model_json_schema", None))


def name_of(function: Any) -> str:
    """A function's name, through partials; an object with ``__call__`` goes by its class."""
    while hasattr(function, "func") and not hasattr(function, "__name__"):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def function_schema(function: Callable[..., Any], where: str = "tools") -> dict[str, Any]:
    """A function's schema: types from its hints, texts from its docstring, required what has no default."""
    try:
        signature = inspect.signature(function)
        described = function if inspect.isroutine(function) or hasattr(function, "__name__") else function.__call__
        described = getattr(function, "func", described)
        hints = typing.get_type_hints(described, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        raise UsageError(f"what this function takes can't be found out: {error}", where=where,
                         found=name_of(function), hint="Give its JSON schema as a dict instead.") from error
    text, described_parameters = docstrings.read(inspect.getdoc(described))
    properties: dict[str, Any] = {}
    required, more = [], False
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            more = more or parameter.kind == parameter.VAR_KEYWORD
            continue
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise UsageError("a tool is called with named arguments", where=where, found=f"{name_of(function)}: {name}",
                             expected="no positional-only parameter")
        properties[name] = _property(hints.get(name, Any), described_parameters.get(name, ""))
        if parameter.default is parameter.empty:
            required.append(name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    if more:
        parameters["additionalProperties"] = True
    return _tool(name_of(function), text, parameters)


def _tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _property(hint: Any, text: str) -> dict[str, Any]:
    """A parameter's schema with its text; ``(choices: ["a", "b"])`` at the text's end is an enum."""
    from .jsontext import decode

    schema = type_schema(hint)
    if (found := CHOICES.search(text)) and decode(found[1])[0]:
        schema, text = {**schema, "enum": decode(found[1])[1]}, text[: found.start()].strip()
    return {**schema, "description": text} if text else schema


def type_schema(hint: Any, depth: int = 0) -> dict[str, Any]:
    """The JSON schema of a Python type; empty, which lets anything pass, for one that JSON has no type for."""
    if depth > DEEPEST:
        return {}
    if hint in SIMPLE:
        return {"type": SIMPLE[hint]}
    if isinstance(hint, str) or hint is Any or hint is inspect.Parameter.empty:
        return {}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [one if isinstance(one, str) else getattr(one, "description", None) for one in arguments[1:]]
        text = next((text for text in texts if isinstance(text, str)), None)
        return {**type_schema(arguments[0], depth + 1), **({"description": text} if text else {})}
    if origin is Literal:
        return _enum(list(arguments))
    if origin in (Union, types.UnionType):
        return _union(arguments, depth)
    if is_model(hint):
        return _flat(hint.model_json_schema())
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum([member.value for member in hint])
    return _container(hint, origin or hint, arguments, depth)


def _container(hint: Any, kind: Any, arguments: tuple[Any, ...], depth: int) -> dict[str, Any]:
    if not isinstance(kind, type):
        return {}
    if typing.is_typeddict(kind) or is_dataclass(kind):
        return _record(kind, depth)
    if issubclass(kind, tuple):
        if not arguments or arguments[-1] is Ellipsis:
            return _array(arguments[:1], depth)
        return {"type": "array", "prefixItems": [type_schema(one, depth + 1) for one in arguments]}
    if issubclass(kind, Mapping):
        inner = type_schema(arguments[1], depth + 1) if len(arguments) == 2 else {}
        return {"type": "object", **({"additionalProperties": inner} if inner else {})}
    if issubclass(kind, (Sequence, set, frozenset)) or kind.__module__ == "collections.abc":
        unique = {"uniqueItems": True} if issubclass(kind, (set, frozenset)) else {}
        return {**_array(arguments[:1], depth), **unique}
    stamps = {("datetime", "datetime"): "date-time", ("datetime", "date"): "date", ("datetime", "time"): "time",
              ("uuid", "UUID"): "uuid", ("pathlib", "Path"): None}
    name = (kind.__module__.split(".")[0], kind.__name__)
    if name in stamps:
        return {"type": "string", **({"format": stamps[name]} if stamps[name] else {})}
    return next(({"type": SIMPLE[base]} for base in (bool, int, float, str) if issubclass(kind, base)), {})


def _array(items: tuple[Any, ...], depth: int) -> dict[str, Any]:
    inner = type_schema(items[0], depth + 1) if items else {}
    return {"type": "array", **({"items": inner} if inner else {})}


def _record(kind: Any, depth: int) -> dict[str, Any]:
    """A TypedDict or a dataclass: an object with these properties."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    else:
        needed = [name for name in hints if name in kind.__required_keys__]
    schema = {"type": "object", "properties": {name: type_schema(one, depth + 1) for name, one in hints.items()}}
    return {**schema, **({"required": needed} if needed else {})}


def _enum(values: list[Any]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(SIMPLE.get(type(value), "string") for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union(arguments: tuple[Any, ...], depth: int) -> dict[str, Any]:
    """Alternatives; simple types side by side in one list, and ``nullable`` where nothing is one of them."""
    options = [type_schema(one, depth + 1) for one in arguments if one is not type(None)]
    if len(options) == 1:
        schema = options[0]
    elif all(set(one) == {"type"} and isinstance(one["type"], str) for one in options):
        schema = {"type": list(dict.fromkeys(one["type"] for one in options))}
    else:
        schema = {"anyOf": options}
    return {**schema, "nullable": True} if type(None) in arguments and schema else schema


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its local references written out, which templates don't follow; a circle stays open."""
    defined = schema.get("$defs", {})

    def written(node: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [written(one, inside) for one in node]
        if not isinstance(node, dict):
            return node
        name = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if name in defined:
            rest = {key: value for key, value in node.items() if key not in ("$ref", "$defs")}
            return {} if name in inside else {**written(defined[name], (*inside, name)), **rest}
        return {key: written(value, inside) for key, value in node.items()
                if key != "$defs" and not (key == "title" and isinstance(value, str))}

    return written(schema, ())
