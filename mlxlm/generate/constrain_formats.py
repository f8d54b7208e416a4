"""What a caller may hold an answer to, as grammars: JSON schemas, types, regular expressions, choices, grammars."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from ..errors import GenerationError
from .checks import shown

EXPECTED = ('a JSON schema (dict), a pydantic model or another type, a compiled regular expression, a list of choices, '
            'a Lark grammar, or "json_object"')
JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"[ \t\r\n]{0,64}"}
"""Room to indent, and an end to it: a model that has nothing to say may otherwise go on with blanks."""
_CLASSES = {r"\w": r"[\p{L}\p{N}_]", r"\W": r"[^\p{L}\p{N}_]", r"\S": r"[^\s\x1c-\x1f]"}
"""Python's classes where the engine's are wider: its words have combining marks in them."""


@dataclass(frozen=True)
class Grammars:
    """A list of grammars as llguidance takes it, of which the first is the answer's; the others are named in it."""

    first: dict[str, Any]
    others: tuple[dict[str, Any], ...] = field(default=())

    def text(self) -> str:
        return json.dumps({"grammars": [self.first, *self.others]})

    def after(self, prefix: str) -> "Grammars":
        """The same with ``prefix``, in Lark's words, in front."""
        return Grammars({"lark_grammar": f"start: {prefix} @answer"}, ({"name": "answer", **self.first}, *self.others))


def as_grammars(response_format: Any) -> Grammars:
    """The grammar that a response format stands for.

    A mapping is a JSON schema, or a tagged form: {"type": "json_object"}, {"type": "json_schema", "json_schema":
    {"schema": …}}, {"type": "regex", "pattern": …}, {"type": "choice", "choices": […]}, {"type": "grammar", "grammar":
    …}. A class or type hint goes through pydantic. A compiled pattern must match the whole answer. A list, tuple, set,
    Enum class or Literal holds the answers to choose from. A string is "json_object" or a Lark grammar with a `start`
    rule.
    Raises GenerationError.
    """
    if isinstance(response_format, Mapping):
        return _mapping(response_format)
    if isinstance(response_format, str):
        return _text(response_format)
    if isinstance(response_format, re.Pattern):
        return regex(response_format)
    if isinstance(response_format, type) and issubclass(response_format, Enum):
        return choice([member.value for member in response_format])
    if isinstance(response_format, (list, tuple, set, frozenset)):
        return choice(response_format)
    if get_origin(response_format) is Literal and all(isinstance(value, str) for value in get_args(response_format)):
        return choice(get_args(response_format))
    if isinstance(response_format, bool):
        return json_schema({} if response_format else False)
    return json_schema(_schema_of_type(response_format))


def _mapping(given: Mapping[str, Any]) -> Grammars:
    kind = given.get("type")
    makers = {
        "json_object": lambda: json_schema({"type": "object"}),
        "json_schema": lambda: json_schema(_inner_schema(given)),
        "regex": lambda: regex(_part(given, "pattern", "regex")),
        "choice": lambda: choice(_part(given, "choices", "choice")),
        "grammar": lambda: lark(_part(given, "grammar", "lark")),
    }
    return makers[kind]() if isinstance(kind, str) and kind in makers else json_schema(given)


def _part(given: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if name in given:
            return given[name]
    raise GenerationError(f"a {given['type']} without its {names[0]}", where="response_format",
                          found=", ".join(map(repr, given)))


def _inner_schema(given: Mapping[str, Any]) -> Any:
    inner = _part(given, "json_schema", "schema")
    return inner["schema"] if isinstance(inner, Mapping) and "schema" in inner else inner


def _text(text: str) -> Grammars:
    if text in ("json_object", "json"):
        return json_schema({"type": "object"})
    if re.search(r"^\s*\??start\b[^:\n]*:", text, re.MULTILINE):
        return lark(text)
    raise GenerationError("not a response format", where="response_format", found=shown(text), expected=EXPECTED,
                          hint="A Lark grammar needs a rule named start; for a pattern pass re.compile(…).")


def _schema_of_type(kind: Any) -> Any:
    maker = getattr(kind, "model_json_schema", None)
    if maker is not None:
        return maker()
    try:
        from pydantic import PydanticUserError, TypeAdapter
        from pydantic_core import PydanticCustomError
    except ImportError as error:
        raise GenerationError("not a response format", where="response_format", found=shown(kind), expected=EXPECTED,
                              hint="For types, run: pip install pydantic") from error
    if not isinstance(kind, type) and not hasattr(kind, "__origin__") and not hasattr(kind, "__args__"):
        raise GenerationError("not a response format", where="response_format", found=shown(kind), expected=EXPECTED)
    try:
        return TypeAdapter(kind).json_schema()
    except (PydanticUserError, PydanticCustomError, TypeError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise GenerationError(f"no JSON schema describes this type ({problem})", where="response_format",
                              found=shown(kind)) from error


def json_schema(schema: Any) -> Grammars:
    """Answers that are JSON, and valid by ``schema``."""
    from .constrain_schema import check_finite

    try:
        plain = json.loads(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise GenerationError(f"a schema that isn't JSON ({error})", where="response_format") from error
    check_finite(plain)
    if isinstance(plain, dict):
        plain.setdefault("x-guidance", JSON_OPTIONS)
    return Grammars({"json_schema": plain})


def regex(pattern: "re.Pattern[Any] | str") -> Grammars:
    """Answers that match the whole of a pattern."""
    flags = 0
    if isinstance(pattern, re.Pattern):
        pattern, flags = pattern.pattern, pattern.flags
    if not isinstance(pattern, str):
        raise GenerationError("a pattern must be text", where="response_format", found=shown(pattern))
    try:
        re.compile(pattern)
    except re.error as error:
        raise GenerationError(f"not a regular expression ({error})", where="response_format", found=shown(pattern),
                              ) from error
    for own, theirs in () if flags & re.A else _CLASSES.items():
        pattern = re.sub(rf"(?<!\\)((?:\\\\)*){re.escape(own)}", lambda found, t=theirs: found[1] + t, pattern)
    letters = "".join(letter for letter, flag in (("i", re.I), ("m", re.M), ("s", re.S), ("x", re.X)) if flags & flag)
    whole = f"(?{letters}:{pattern})" if letters else pattern
    from llguidance import regex_to_lark

    return Grammars({"lark_grammar": f"start: /{regex_to_lark(whole, 'dws' if flags & re.A else '')}/"})


def choice(options: Iterable[Any]) -> Grammars:
    """Answers that are one of several texts."""
    listed = list(options)
    if not listed:
        raise GenerationError("nothing to choose from", where="response_format", found="an empty list")
    for option in listed:
        if not isinstance(option, str):
            raise GenerationError("choices must be text", where="response_format", found=shown(option))
    return Grammars({"lark_grammar": "start: " + " | ".join(map(literal, dict.fromkeys(listed)))})


def lark(grammar: Any) -> Grammars:
    """Answers that a Lark grammar (llguidance's dialect) derives from ``start``."""
    if not isinstance(grammar, str):
        raise GenerationError("a grammar must be text", where="response_format", found=shown(grammar))
    return Grammars({"lark_grammar": grammar})


def literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)
