"""Text typed by a tool's schema: unions, enums, nullable, nested, alternatives, references; and never without one."""

from __future__ import annotations

import pytest

from mlxlm.errors import UsageError
from mlxlm.tools import ToolCall, ToolStream, format, parse

STRING, INTEGER, NUMBER, BOOLEAN = ({"type": t} for t in ("string", "integer", "number", "boolean"))


def read(text: str, schema, name: str = "glm4"):
    """The value that a text-valued format reads under a schema."""
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "$defs": {
        "Size": {"enum": ["s", "m", 1]}, "Loop": {"$ref": "#/$defs/Loop"}, "Deep/~": INTEGER}}}
    wire = f"<tool_call>f<arg_key>x</arg_key><arg_value>{text}</arg_value></tool_call>"
    output = parse(wire, name, [{"type": "function", "function": tool}])
    assert not output.rejected
    return output.tool_calls[0].arguments["x"]


@pytest.mark.parametrize("text,schema,value", [
    ("5", STRING, "5"), (" 5 ", STRING, " 5 "), ("null", STRING, "null"), ('{"a": 1}', STRING, '{"a": 1}'),
    ("5", INTEGER, 5), (" 5\n", INTEGER, 5), ("5.0", INTEGER, 5), ("5.5", INTEGER, "5.5"), ("five", INTEGER, "five"),
    ("null", INTEGER, None), ("true", INTEGER, "true"), ("5", NUMBER, 5), ("5.5", NUMBER, 5.5), ("1e3", NUMBER, 1000.0),
    ("true", BOOLEAN, True), ("False", BOOLEAN, False), ("yes", BOOLEAN, True), ("0", BOOLEAN, False),
    ("maybe", BOOLEAN, "maybe"), ("1", {"type": ["boolean", "integer"]}, 1),
    ("5", {"type": ["integer", "string"]}, 5), ("x", {"type": ["integer", "string"]}, "x"),
    ("null", {"type": ["string", "null"]}, None), ("null", {"type": "string", "nullable": True}, None),
    ("5", {"anyOf": [STRING, {"type": "null"}]}, "5"), ("none", {"anyOf": [STRING, {"type": "null"}]}, None),
    ("5", {"oneOf": [INTEGER, BOOLEAN]}, 5), ("true", {"anyOf": [INTEGER, {"anyOf": [BOOLEAN]}]}, True),
    ("1", {"enum": ["1", "2"]}, "1"), ("1", {"enum": [1, 2]}, 1), ("1", {"type": "string", "enum": ["1"]}, "1"),
    ("true", {"const": True}, True), ("true", {"const": "true"}, "true"),
    ("s", {"$ref": "#/$defs/Size"}, "s"), ("1", {"$ref": "#/$defs/Size"}, 1), ("7", {"$ref": "#/$defs/Deep~1~0"}, 7),
    ("7", {"$ref": "#/$defs/Loop"}, "7"), ("7", {"$ref": "elsewhere.json"}, "7"),
    ('[1, "2"]', {"type": "array", "items": INTEGER}, [1, "2"]), ("['a', None]", {"type": "array"}, ["a", None]),
    ("{'a': True}", {"type": "object"}, {"a": True}), ("[broken", {"type": "array"}, "[broken"),
    ("(1, 2)", {"type": "array"}, [1, 2]), ("{'a': __import__('os')}", {"type": "object"}, "{'a': __import__('os')}"),
    ("5", {"type": "int32"}, 5), ("5.5", {"type": "float"}, 5.5), ("5", {"type": "str"}, "5"),
    ("[1]", {"type": "List[int]"}, [1]), ("5", {}, "5"), ("5", {"description": "?"}, "5"), ("5", {"type": 3}, "5"),
    ("99999999999999999999", INTEGER, 99999999999999999999), ("NaN", NUMBER, "NaN"), ("9" * 5000, INTEGER, "9" * 5000),
])
def test_typed(text, schema, value):
    found = read(text, schema)
    assert found == value and type(found) is type(value)


def test_literals_are_typed_deep_down():
    schema = {"type": "object", "properties": {
        "a": {"type": "array", "items": STRING}, "o": {"properties": {"n": INTEGER}, "additionalProperties": STRING},
        "u": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"k": STRING}}]}}}
    tools = [{"name": "f", "parameters": schema}]
    want = {"a": ["1", "x"], "o": {"n": 3, "rest": "4"}, "u": {"k": "5"}, "free": 6}
    for name, text in (
            ("lfm2", "<|tool_call_start|>f(a=[1, 'x'], o={'n': '3', 'rest': 4}, u={'k': 5}, free=6)<|tool_call_end|>"),
            ("gemma4", '<|tool_call>call:f{a:[1,<|"|>x<|"|>],o:{n:<|"|>3<|"|>,rest:4},u:{k:5},free:6}<tool_call|>')):
        assert parse(text, name, tools).tool_calls[0].arguments == want


def test_nothing_is_typed_without_a_schema():
    for tools in (None, [{"name": "f"}], [{"name": "f", "parameters": {"properties": {"y": INTEGER}}}]):
        text = "<tool_call>f<arg_key>x</arg_key><arg_value> 5</arg_value></tool_call>"
        assert parse(text, "glm4", tools).tool_calls[0].arguments == {"x": " 5"}
    text = '<tool_call>{"name": "f", "arguments": {"y": "5"}}</tool_call>'
    tools = [{"name": "f", "parameters": {"properties": {"y": INTEGER}}}]
    assert parse(text, "json", tools).tool_calls[0].arguments == {"y": "5"}


def test_what_a_user_gets_wrong_is_explained():
    with pytest.raises(UsageError, match="Did you mean mistral"):
        parse("", "mistrall")
    with pytest.raises(UsageError, match="a tool needs a name"):
        parse("", "json", [{"function": {}}])
    stream = ToolStream("json")
    stream.finish()
    with pytest.raises(UsageError, match="new ToolStream"):
        stream.feed("more")
    with pytest.raises(UsageError, match="must be text"):
        ToolStream("json").feed(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name,arguments", [
    ("gemma4", {"a": '<|"|>'}), ("gemma", {"a": "<escape>"}), ("json", {"a": {1, 2}}), ("json", {"a": float("nan")}),
    ("xml_function", {"a": "x\n</parameter>\n<parameter=b>\ny"}), ("glm4", {"a</arg_key>": 1}),
    ("minimax_m2", {'"': 1}),
])
def test_a_format_does_not_write_what_would_read_differently(name, arguments):
    with pytest.raises(UsageError):
        format([ToolCall("f", arguments)], name)
