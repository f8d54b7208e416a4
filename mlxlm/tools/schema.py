"""Typing by JSON schema: text from the wire becomes the value that the tool's schema describes, or stays the text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mlxlm.errors import UsageError

from .jsontext import decode

Schema = Mapping[str, Any]
TYPES = ("integer", "number", "boolean", "null", "object", "array", "string")
PREFIXES = {"int": "integer", "uint": "integer", "long": "integer", "short": "integer", "unsigned": "integer",
            "num": "number", "float": "number", "double": "number", "bool": "boolean", "binary": "boolean",
            "object": "object", "dict": "object", "map": "object", "arr": "array", "list": "array", "tuple": "array",
            "nul": "null", "none": "null", "str": "string", "text": "string", "varchar": "string", "char": "string",
            "enum": "string"}
YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
MOST_REFERENCES = 32


class Bare(NamedTuple):
    """An unquoted word of a literal; what it means is for the schema to say."""

    text: str


class Toolbox:
    """The tools that a conversation offers; None offers nothing to check against, so every name passes."""

    def __init__(self, tools: Iterable[Any] | None = None):
        self.schemas: dict[str, Schema] | None = None if tools is None else dict(map(_name_and_schema, tools))

    def declares(self, name: str) -> bool:
        return self.schemas is None or name in self.schemas

    def schema(self, name: str | None) -> Schema | None:
        """The schema of a tool's arguments, if the tool and its schema are known."""
        return (self.schemas or {}).get(name or "") or None

    def parameter(self, name: str | None, key: str) -> tuple[Schema | None, Schema]:
        """The schema of one argument (None: nothing is known), and the root that its references start from."""
        root = self.schema(name) or {}
        return property_of(root, key, root), root


def _name_and_schema(tool: Any) -> tuple[str, Schema]:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
        raise UsageError("a tool needs a name", where="tools", found=repr(tool)[:60],
                         expected='{"type": "function", "function": {"name": …, "parameters": {…}}}')
    schema = next((inner[key] for key in ("parameters", "input_schema") if isinstance(inner.get(key), Mapping)), {})
    return name, schema


def branches(schema: Any, root: Schema) -> list[Schema]:
    """The schema with local references followed, and its alternatives side by side."""
    found: list[Schema] = []
    waiting, seen = [schema], 0
    while waiting and seen < MOST_REFERENCES:
        one, seen = waiting.pop(0), seen + 1
        if not isinstance(one, Mapping):
            continue
        if isinstance(one.get("$ref"), str):
            waiting.append(_follow(one["$ref"], root))
        inner = [i for key in ("anyOf", "oneOf", "allOf") if isinstance(one.get(key), list) for i in one[key]]
        waiting += inner
        if not inner or any(key in one for key in ("type", "enum", "const")):
            found.append(one)
    return found


def _follow(reference: str, root: Schema) -> Any:
    node: Any = root
    if not reference.startswith("#"):
        return None
    for part in filter(None, reference[1:].split("/")):
        part = part.replace("~1", "/").replace("~0", "~")
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def property_of(schema: Any, key: str, root: Schema) -> Schema | None:
    """The schema of an object's property, or of its further properties; None where nothing is said."""
    options = branches(schema, root) if schema else []
    for one in options:
        properties = one.get("properties")
        if isinstance(properties, Mapping) and isinstance(properties.get(key), Mapping):
            return properties[key]
    return next((one["additionalProperties"] for one in options
                 if isinstance(one.get("additionalProperties"), Mapping)), None)


def _items_of(schema: Any, index: int, root: Schema) -> Schema | None:
    for one in branches(schema, root) if schema else []:
        first = one.get("prefixItems")
        if isinstance(first, list) and index < len(first):
            return first[index]
        if isinstance(one.get("items"), Mapping):
            return one["items"]
    return None


def types_of(schema: Any, root: Schema) -> set[str]:
    """The JSON types that a schema lets pass, its enum and nullable counted; empty where it says nothing."""
    types: set[str] = set()
    for one in branches(schema, root) if schema else []:
        named = one.get("type")
        for name in named if isinstance(named, list) else [named]:
            if isinstance(name, str) and (known := _known_type(name)):
                types.add(known)
        if named is None:
            types |= {json_type(value) for value in _choices(one) or ()}
            types |= {"object"} if "properties" in one else {"array"} if "items" in one else set()
        if one.get("nullable") is True and types:
            types.add("null")
    return types


def _known_type(name: str) -> str | None:
    lower = name.strip().lower()
    return lower if lower in TYPES else next((t for prefix, t in PREFIXES.items() if lower.startswith(prefix)), None)


def json_type(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (dict, "object"))
    return "null" if value is None else next((name for kind, name in kinds if isinstance(value, kind)), "array")


def _choices(schema: Schema) -> list[Any] | None:
    if isinstance(schema.get("enum"), list):
        return schema["enum"]
    return [schema["const"]] if "const" in schema else None


def typed(text: str, schema: Any, root: Schema, literal: Any = None) -> Any:
    """The value that ``text`` stands for under ``schema``; the text itself where it fits no type of it.

    A choice of an enum wins, then integer, number, boolean, null, object, array; string last. ``literal`` reads an
    object or array that isn't JSON, and returns None if it can't.
    """
    types = types_of(schema, root)
    if not types or types == {"string"}:
        return text
    choices = [choice for one in branches(schema, root) for choice in _choices(one) or ()]
    if text in choices:
        return text
    stripped = text.strip()
    fine, value = decode(stripped)
    if not fine and literal is not None and types & {"object", "array"} and stripped[:1] in ("{", "[", "("):
        value = literal(stripped)
        fine = value is not None
    if fine and any(json_type(choice) == json_type(value) and choice == value for choice in choices):
        return value
    if fine and (found := _fitting(value, types)) is not None:
        return found[0]
    return _spelled(stripped, types, text)


def _fitting(value: Any, types: set[str]) -> tuple[Any] | None:
    """The value, as a tuple of one, if a type lets it pass; integral floats pass as integers."""
    kind = json_type(value)
    if kind == "string":
        return None
    if kind == "number" and "integer" in types and math.isfinite(value) and value.is_integer():
        return (int(value),)
    if kind in types or (kind == "integer" and "number" in types):
        return (value,)
    return (None,) if kind == "null" and "string" not in types else None


def _spelled(stripped: str, types: set[str], text: str) -> Any:
    """Booleans and nothing in other spellings than JSON's."""
    lower = stripped.lower()
    only = types <= {"boolean", "null"}
    if "boolean" in types and (lower in YES[:1] or (only and lower in YES)):
        return True
    if "boolean" in types and (lower in NO[:1] or (only and lower in NO)):
        return False
    if ("null" in types or "string" not in types) and lower in ("null", "none", "nil"):
        return None
    return text


def settle(tree: Any, schema: Any, root: Schema) -> Any:
    """A literal with its bare words typed: by the schema, else as JSON, else as text.

    Quoted text stays text unless the schema has no place for text there.
    """
    if isinstance(tree, dict):
        return {key: settle(value, property_of(schema, key, root), root) for key, value in tree.items()}
    if isinstance(tree, list):
        return [settle(value, _items_of(schema, index, root), root) for index, value in enumerate(tree)]
    types = types_of(schema, root)
    if not isinstance(tree, Bare):
        return tree if not types or "string" in types or not isinstance(tree, str) else typed(tree, schema, root)
    if types:
        return typed(tree.text, schema, root)
    fine, value = decode(tree.text)
    return value if fine else {"True": True, "False": False, "None": None}.get(tree.text, tree.text)
