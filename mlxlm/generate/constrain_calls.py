"""Tool calls as grammars: how a format writes a call is learnt from its own writer, so that no format is told twice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from ..errors import GenerationError
from ..tools import ToolCall, parse
from ..tools.formats import find
from ..tools.schema import Toolbox, branches, types_of
from .checks import unknown
from .constrain_formats import JSON_OPTIONS, literal
from .constrain_schema import check_finite

IDENTITY = "abcdefghi"
"""The id of the calls that are written to learn from; where a format has ids, any nine letters and digits may stand."""
SCALARS = ("string", "integer", "number", "boolean", "null")
ALONE = "\x00"
TOOL, KEYS, WORD, NUMBER = "qtool7", ("qkeya", "qkeyb"), "qvalue", 73519
"""Stand-ins in the calls that are written to learn from: they end as no marker does, so that nothing overlaps."""
SAMPLES: dict[str, Any] = {"string": WORD, "integer": NUMBER, "number": 7.25, "boolean": True, "null": None,
                           "array": [1, {"a": [True, None]}], "object": {"a": [1, None], "b": {"c": "d"}}}


class Repeated(NamedTuple):
    """What is written around several of a kind: before all, before each, after each, between two, after all."""

    begin: str
    open: str
    close: str
    between: str
    end: str


def repeated(before: str, middle: str, after: str) -> Repeated | None:
    """Takes apart what stands before one, between two, and after the last; None where that isn't a repetition."""
    open_ = _common(middle[::-1], before[::-1])[::-1]
    rest = middle[: len(middle) - len(open_)]
    close = _common(rest, after)
    if not open_ and not close:
        return None
    return Repeated(before[: len(before) - len(open_)], open_, close, rest[len(close):], after[len(close):])


def _common(a: str, b: str) -> str:
    count = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:count]


class Lark:
    """A grammar in the making: rules by name, and text in which special tokens stand for themselves."""

    def __init__(self, special: Mapping[int, str]):
        self._special = sorted(((text, i) for i, text in special.items() if text), key=lambda one: -len(one[0]))
        self.rules: list[str] = []
        self.spans: dict[str, str] = {}

    def rule(self, body: str, options: str = "") -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name

    def words(self, text: str) -> str:
        """A text, with the special tokens in it as tokens; an id in it may be any."""
        parts: list[str] = []
        while text:
            found = [(at, -len(word), word, i) for word, i in self._special if (at := text.find(word)) >= 0]
            at, _, word, index = min(found, default=(len(text), 0, "", 0))
            parts += self._plain(text[:at]) + ([f"<[{index}]>"] if word else [])
            text = text[at + len(word):]
        return " ".join(parts) or '""'

    @staticmethod
    def _plain(text: str) -> list[str]:
        pieces = text.split(IDENTITY)
        parts: list[str] = []
        for i, piece in enumerate(pieces):
            parts += [f"/[a-zA-Z0-9]{{{len(IDENTITY)}}}/"] if i else []
            parts += [literal(piece)] if piece else []
        return parts

    def starts_special(self, text: str) -> bool:
        return any(text.startswith(word) for word, _ in self._special)

    def json(self, schema: Any) -> str:
        check_finite(schema)
        # Where no blank can stand, none may be looked for: it would be taken for one of what follows.
        options = {"whitespace_flexible": False} if schema.get("type") in SCALARS else JSON_OPTIONS
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': schema.get('x-guidance', options)})}")

    def until(self, end: str) -> str:
        """Any text up to ``end``, and ``end`` itself."""
        first = self.words(end)
        if first.startswith("<["):
            return self.rule(f"{self.anything()} {first}")
        word, _, rest = first.partition(" ") if " <[" in first else (first, "", "")
        lazy = self.rule("/(.|\\n)*/", f"[suffix={word}]")
        return self.rule(f"{lazy} {rest}") if rest else lazy

    def anything(self) -> str:
        return self.rule("/(.|\\n)*/")

    def text(self, start: str) -> str:
        return "\n".join([f"start: {start}", *self.rules])


@dataclass(frozen=True)
class Tool:
    """What one tool's call looks like: around it, the rule for what it holds, and a call that holds nothing."""

    frame: Repeated
    body: str
    empty: str | None = None

    def written(self, lark: Lark, before: str = "", drop: int = 0) -> str:
        """The call behind ``before``, without the first ``drop`` characters of both."""
        whole = f"{lark.words((before + self.frame.open)[drop:])} {self.body} {lark.words(self.frame.close)}"
        return whole if self.empty is None else f"{whole} | {lark.words((before + self.empty)[drop:])}"


class Calls(NamedTuple):
    """Rules for calls: ``whole``, and ``rest``, what follows the marker ``opener`` that they begin with."""

    whole: str
    rest: str
    opener: str


def calls_rule(lark: Lark, format: str, tools: Sequence[Any], name: str | None = None) -> Calls:
    """The rules of one or more calls in a format, or of one call of the tool ``name``.

    Raises GenerationError for a tool that isn't there, or a format or schema that can't be held to.
    """
    schemas = Toolbox(tools).schemas or {}
    if name is not None and name not in schemas:
        raise unknown("tool", name, schemas)
    made = [_tool(lark, format, tool, _closed(schema))
            for tool, schema in schemas.items() if name in (None, tool)]
    if not made:
        raise GenerationError("there are no tools to call", where="tool_choice")
    frame, around = made[0].frame, {(t.frame.begin, t.frame.between, t.frame.end) for t in made}
    opener = _opener(format, frame.begin + frame.open)
    one = lark.rule(" | ".join(tool.written(lark) for tool in made))
    several = name is None and frame.between != ALONE and len(around) == 1
    more = f" ({lark.words(frame.between)} {one})*" if several else ""
    tail = f"{more} {lark.words(frame.end)}"
    whole, rest = (" | ".join(tool.written(lark, tool.frame.begin, drop) for tool in made) for drop in (0, len(opener)))
    return Calls(lark.rule(f"({whole}){tail}"), lark.rule(f"({rest}){tail}"), opener)


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by a schema; those that it doesn't name are out, unless it says otherwise."""
    plain = "properties" in schema and not {"allOf", "anyOf", "oneOf", "$ref"} & set(schema)
    return {"type": "object", **({"additionalProperties": False} if plain else {}), **schema}


def _opener(format: str, text: str) -> str:
    """The marker by which a reader tells that a call begins."""
    return max((o for o in find(format).openers if text.startswith(o)), key=len, default=text[:1])


def _written(format: str, *calls: tuple[str, dict[str, Any]]) -> str:
    return find(format).write([ToolCall(name, arguments, IDENTITY) for name, arguments in calls])


def _tool(lark: Lark, format: str, name: str, schema: Mapping[str, Any]) -> Tool:
    one = {KEYS[1]: WORD}
    text, marked = _written(format, (TOOL, one)), json.dumps(one)
    if marked in text:
        before, _, after = text.partition(marked)
        return Tool(_frame(format, name, one, marked, before, after), lark.json(schema))
    before, _, after = text.partition(WORD)
    inner = _arguments(format)
    if inner is None:
        raise GenerationError("calls of this format can't be constrained", where="tool_choice", found=format)
    head, tail = before[: len(before) - len(inner.open)], after[len(inner.close):]
    frame = _frame(format, name, one, inner.open + WORD + inner.close, head, tail)
    body, empty = _parameters(lark, format, name, schema, inner.between), _written(format, (name, {}))
    plain = not schema.get("required") and empty.startswith(frame.begin) and empty.endswith(frame.end)
    return Tool(frame, body, empty[len(frame.begin): len(empty) - len(frame.end)] if plain else None)


def _frame(format: str, name: str, arguments: dict[str, Any], body: str, before: str, after: str) -> Repeated:
    """What stands around a call of which ``before`` and ``after`` stand around the body, and around several."""
    first, *others = _written(format, (TOOL, arguments), (TOOL, arguments)).split(body)
    found = repeated(before, others[0], after) if len(others) == 2 and first == before else None
    # Where a second call is written otherwise (numbered, or as a message of its own), there is only one.
    frame = found if found and TOOL in found.open else Repeated("", before, after, ALONE, "")
    return Repeated(*(part.replace(TOOL, name) for part in frame))


@cache
def _arguments(format: str, kind: str = "string", spelled: str = WORD) -> Repeated | None:
    """What a format writes around arguments of a type, for the key ``KEYS[1]``."""
    sample = SAMPLES[kind]
    alone = _written(format, (TOOL, {KEYS[1]: sample}))
    text = _written(format, (TOOL, {KEYS[0]: sample, KEYS[1]: sample}))
    before, found, after = alone.partition(spelled)
    _, first, rest = text.partition(spelled)
    middle, second, _ = rest.partition(spelled)
    return repeated(before, middle, after) if found and first and second else None


def _parameters(lark: Lark, format: str, name: str, schema: Mapping[str, Any], between: str) -> str:
    """The rule of arguments that are written one by one, in the schema's order; optional ones may be left out."""
    parts = branches(schema, schema)
    properties = next((part["properties"] for part in parts if isinstance(part.get("properties"), Mapping)), {})
    needed = {key for part in parts if isinstance(part.get("required"), list) for key in part["required"]}
    if missing := needed - set(properties):
        raise GenerationError("a required argument that isn't described", where=f"tools: {name}",
                              found=", ".join(sorted(map(str, missing))))
    # Two rules for what is left from each argument on: where one was written before, and where none was.
    later, first = '""', '""'
    for key, own in reversed(properties.items()):
        one = _parameter(lark, format, name, key, own, schema)
        with_one = (f"{lark.words(between)} {one} {later}", f"{one} {later}")
        others = ("", "") if key in needed else (f" | {later}", f" | {first}")
        later, first = (lark.rule(w + o) for w, o in zip(with_one, others, strict=True))
    return first


def _parameter(lark: Lark, format: str, tool: str, key: str, schema: Any, root: Mapping[str, Any]) -> str:
    rooted = {**({"$defs": root["$defs"]} if "$defs" in root else {}), **(schema if isinstance(schema, dict) else {})}
    kinds = sorted(types_of(rooted, root)) or ["string"]
    options: list[str] = []
    for kind in ["string"] if "string" in kinds and _written_alike(format) else kinds:
        narrowed = {**rooted, "type": kind} if "type" in rooted and len(kinds) > 1 else rooted
        options.append(_value(lark, format, tool, key, narrowed, kind))
    return lark.rule(" | ".join(options))


def _written_alike(format: str) -> bool:
    """Whether a string isn't told from other values by how it is written."""
    return _arguments(format) == _arguments(format, "integer", str(NUMBER))


def _value(lark: Lark, format: str, tool: str, key: str, schema: Mapping[str, Any], kind: str) -> str:
    """One argument of one type, with what is written around it."""
    spelled = WORD if kind == "string" else _spelled(format, kind)
    around = _arguments(format, kind, spelled) if spelled else None
    if around is None:
        raise GenerationError(f"an argument of this type can't be constrained in the format {format}",
                              where=f"tools: {tool}.{key}", found=kind)
    open_, close = around.open.replace(KEYS[1], key), around.close
    json_too = _reads_json(format, kind, spelled)
    if kind == "string" and not json_too:
        return f"{lark.words(open_)} {_raw(lark, schema, close)}"
    if kind == "string":  # the quotes are the value's own
        value = f"({lark.json(schema)}{_single_quoted(lark, schema)})"
        return f"{lark.words(open_[:-1])} {value} {lark.words(close[1:])}"
    if not json_too:
        raise GenerationError(f"an argument of this type can't be constrained in the format {format}",
                              where=f"tools: {tool}.{key}", found=kind)
    own = [word for word in _own_words(format, kind) if not {"const", "enum"} & set(schema)]
    value = " | ".join([lark.json(schema), *map(literal, own)])
    return f"{lark.words(open_)} ({value}) {lark.words(close)}"


@cache
def _spelled(format: str, kind: str) -> str:
    """How a format writes a value: what is left of a call when all that it writes around another is taken off."""
    sample = SAMPLES[kind]
    text = _written(format, (TOOL, {KEYS[1]: sample}))
    other = _written(format, (TOOL, {KEYS[1]: NUMBER}))
    before, _, after = other.partition(str(NUMBER))
    if text.startswith(before) and text.endswith(after):
        return text[len(before): len(text) - len(after)]
    spelled = json.dumps(sample)
    return spelled if text.count(spelled) == 1 else ""


def _own_words(format: str, kind: str) -> list[str]:
    """The words that a format has for true, false and null, where they aren't JSON's."""
    values = {"boolean": (True, False), "null": (None,)}.get(kind, ())
    texts = [_written(format, (TOOL, {KEYS[1]: value})) for value in values]
    known = {True: "True", False: "False", None: "None"}
    return [known[value] for value, text in zip(values, texts, strict=True) if known[value] in text]


@cache
def _reads_json(format: str, kind: str, spelled: str) -> bool:
    """Whether the format's reader takes JSON for a value of a type, whatever its writer writes."""
    sample = SAMPLES[kind]
    text = _written(format, (TOOL, {KEYS[1]: sample}))
    if kind == "string":
        quoted = next((q + spelled + q for q in "'\"" if q + spelled + q in text), "")
        if not quoted:
            return False
        sample, spelled = 'a"b\\c\nd\té', quoted
    text = text.replace(spelled, json.dumps(sample))
    declared = {"name": TOOL, "parameters": {"type": "object", "properties": {KEYS[1]: {"type": kind}}}}
    calls = parse(text, format, [{"type": "function", "function": declared}]).tool_calls
    return [call.arguments for call in calls] == [{KEYS[1]: sample}]


def _single_quoted(lark: Lark, schema: Mapping[str, Any]) -> str:
    """Strings as Python prefers to write them, beside JSON's; only where the schema asks for nothing harder."""
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choices, list):
        plain = [repr(one) for one in choices if isinstance(one, str) and repr(one) == f"'{one}'"]
        return "".join(f" | {lark.words(one)}" for one in plain)
    if set(schema) & {"pattern", "format", "minLength", "maxLength", "$ref", "anyOf", "oneOf", "allOf"}:
        return ""
    return r""" | /'([^'\\\x00-\x1f]|\\['"\\nrt])*'/"""


def _raw(lark: Lark, schema: Mapping[str, Any], close: str) -> str:
    """A string that is written as it is, up to ``close``, and ``close``."""
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(choices, list):
        return f"({' | '.join(lark.words(str(one)) for one in choices)}) {lark.words(close)}"
    return lark.until(close)
