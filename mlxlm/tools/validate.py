"""Whether arguments are what their JSON schema allows: for formats whose calls count only then."""

from __future__ import annotations

from typing import Any

from .schema import Schema, branches, json_type, types_of

DEEPEST = 64


def problem(value: Any, schema: Any, root: Schema, where: str = "", depth: int = 0) -> str | None:
    """The first thing in ``value`` that the schema doesn't allow, in words; None if there is none.

    Checked: types, enum and const, required, properties and further ones, items; of alternatives one must fit.
    """
    options = branches(schema, root) if schema else []
    if not options or depth > DEEPEST:
        return None
    types = types_of(schema, root)
    kind = json_type(value)
    if types and kind not in types and not (kind == "integer" and "number" in types):
        return f"{where or 'the arguments'}: {kind} where {' or '.join(sorted(types))} was due"
    found = [_against(value, one, root, where, depth) for one in options]
    return None if any(one is None for one in found) else found[0]


def _against(value: Any, one: Schema, root: Schema, where: str, depth: int) -> str | None:
    """The first problem with one alternative."""
    choices = one["enum"] if isinstance(one.get("enum"), list) else [one["const"]] if "const" in one else None
    if choices is not None and value not in choices:
        return f"{where or 'the arguments'}: not one of {choices!r}"[:200]
    if isinstance(value, dict):
        return _object(value, one, root, where, depth)
    if isinstance(value, list):
        first = one.get("prefixItems")
        first = first if isinstance(first, list) else []
        for index, item in enumerate(value):
            inner = first[index] if index < len(first) else one.get("items")
            if (found := problem(item, inner, root, f"{where}[{index}]", depth + 1)) is not None:
                return found
    return None


def _object(value: dict[str, Any], one: Schema, root: Schema, where: str, depth: int) -> str | None:
    properties = one["properties"] if isinstance(one.get("properties"), dict) else {}
    required = one["required"] if isinstance(one.get("required"), list) else []
    missing = [name for name in required if name not in value]
    if missing:
        return f"{where + '.' if where else ''}{missing[0]} is missing"
    for key, item in value.items():
        place = f"{where}.{key}" if where else key
        if key not in properties and one.get("additionalProperties") is False:
            return f"{place} is not a parameter"
        inner = properties.get(key, one.get("additionalProperties"))
        if (found := problem(item, inner, root, place, depth + 1)) is not None:
            return found
    return None
