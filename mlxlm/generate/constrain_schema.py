"""Schemas that no finite JSON satisfies, which a grammar engine takes without a word and then never ends."""

from collections.abc import Mapping
from typing import Any

from ..errors import GenerationError

MOST_DEPTH = 200


def check_finite(schema: Any) -> None:
    """Raises GenerationError for a schema whose every value holds another of the same kind, endlessly."""
    finite: dict[str, bool] = {}
    grown = True
    while grown:  # to the least fixed point: a reference is finite once what it names is
        grown = False
        for reference in _references(schema, 0):
            if not finite.get(reference) and _finite(_target(schema, reference), finite):
                finite[reference] = grown = True
    if not _finite(schema, finite):
        raise GenerationError("no finite JSON satisfies this schema", where="response_format",
                              hint="A part requires itself; make it optional, or give it an alternative.")


def _references(part: Any, depth: int) -> set[str]:
    if depth > MOST_DEPTH:
        raise GenerationError("a schema nested too deeply", where="response_format", expected=f"{MOST_DEPTH} levels")
    inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ()
    found = set().union(*(_references(p, depth + 1) for p in inner)) if inner else set()
    if isinstance(part, Mapping) and isinstance(part.get("$ref"), str):
        found.add(part["$ref"])
    return found


def _target(schema: Any, reference: str) -> Any:
    """What a local reference names; True, which anything satisfies, for one that the engine is to judge."""
    if not reference.startswith("#"):
        return True
    part = schema
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        part = part.get(step, True) if isinstance(part, Mapping) else True
    return part


def _finite(part: Any, known: dict[str, bool]) -> bool:
    """Whether a finite value can satisfy ``part``, by what is known of references so far."""
    if not isinstance(part, Mapping) or "const" in part or "enum" in part:
        return True
    if isinstance(part.get("$ref"), str) and not known.get(part["$ref"]):
        return False
    if any(not _finite(p, known) for p in _list(part.get("allOf"))):
        return False
    for key in ("anyOf", "oneOf"):
        if _list(part.get(key)) and not any(_finite(p, known) for p in part[key]):
            return False
    kind = part.get("type")
    scalars = set(kind if isinstance(kind, list) else [kind]) - {"object", "array", None}
    return bool(scalars) or (_object_finite(part, known) if kind != "array" else _array_finite(part, known))


def _object_finite(part: Mapping[str, Any], known: dict[str, bool]) -> bool:
    properties = part.get("properties")
    required = part.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return True
    return all(_finite(properties.get(name), known) for name in required if isinstance(name, str))


def _array_finite(part: Mapping[str, Any], known: dict[str, bool]) -> bool:
    least = part.get("minItems")
    if not isinstance(least, int) or least <= 0:
        return True
    front = _list(part.get("prefixItems"))[:least]
    return all(_finite(p, known) for p in front) and (len(front) >= least or _finite(part.get("items"), known))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
