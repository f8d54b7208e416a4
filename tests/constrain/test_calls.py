"""Calls held to the declared tools, in every wire format: whatever is allowed is read as valid calls."""

import random

import jsonschema
import pytest
import tiny
import walks
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.errors import GenerationError
from mlxlm.generate import stream_generate
from mlxlm.generate.constrain import Constraint
from mlxlm.generate.constrain_answer import Frame, answer_constraint
from mlxlm.load import load
from mlxlm.tools import FORMATS, ReasoningProtocol, ToolCall, parse
from mlxlm.tools.formats import find

NUMBERED = ("kimi_k2", "kimi_k3")  # a second call is written with another number, so there is one call
THINKING = ReasoningProtocol("<think>", "</think>")


def tool(name, properties=None, required=(), **more):
    schema = {"type": "object", "properties": properties or {}, "required": list(required),
              "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


TOOLS = [
    tool("get_weather", {
        "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}, ["city", "unit"]),
    tool("stop"),
]
SCHEMAS = {one["function"]["name"]: one["function"]["parameters"] for one in TOOLS}


@pytest.fixture
def tokens():
    return walks.tokenizer("gpt2")


def constraint(tokens, format, choice="required", tools=TOOLS, protocol=None, inside=False, response_format=None):
    frame = Frame(format, tools, protocol, inside)
    made = answer_constraint(tokens, tokens.eos_token_ids, response_format, choice, frame)
    assert isinstance(made, Constraint)
    return made


def wander(tokens, made, seed, most=500):
    """A random answer, short where it may be; None if it grew too long."""
    chance, taken = random.Random(seed), []
    while len(taken) < most:
        allowed = made.mask().nonzero()[0].tolist()
        if made.satisfied and chance.random() < 0.5:
            return tokens.decode(taken)
        token = chance.choice([i for i in allowed if i not in made.vocabulary.eos] or allowed)
        assert made.accept(token)
        if token in made.vocabulary.eos:
            return tokens.decode(taken)
        taken.append(token)
    return None


def check(text, format, tools=TOOLS, schemas=SCHEMAS):
    found = parse(text, format, tools)
    assert found.tool_calls and not found.rejected, text
    for call in found.tool_calls:
        jsonschema.validate(call.arguments, schemas[call.name])
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_allowed_is_a_valid_call(tokens, format, seed):
    text = wander(tokens, constraint(tokens, format), seed)
    if text is not None:
        assert not check(text, format).content.strip()


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_model_of_the_family_writes_is_allowed(tokens, format):
    whole = {"city": "São Paulo's", "days": 3, "unit": "C", "flags": [True, False]}
    calls = [ToolCall("get_weather", whole, "abc123XYZ"),
             ToolCall("get_weather", {"city": "Rome", "unit": "F"}, "abc123XYZ"), ToolCall("stop", {}, "abc123XYZ")]
    for some in ([calls[0]], [calls[1]], [calls[2]], calls):
        if format in ("pythonic", "lfm2"):  # lists are JSON's, as their readers take them too
            some = [ToolCall(c.name, {k: v for k, v in c.arguments.items() if k != "flags"}) for c in some]
        if len(some) == 1 or format not in (*NUMBERED, "gpt_oss"):
            assert walks.reaches(constraint(tokens, format), tokens.encode(find(format).write(some))), some


@pytest.mark.parametrize("format", FORMATS)
def test_one_tool_by_name(tokens, format):
    made = constraint(tokens, format, "stop")
    text = wander(tokens, made, 1)
    assert [call.name for call in check(text, format).tool_calls] == ["stop"]
    other = find(format).write([ToolCall("get_weather", {"city": "x", "unit": "C"}, "abc123XYZ")])
    assert not walks.reaches(constraint(tokens, format, "stop"), tokens.encode(other))


@pytest.mark.parametrize("format", ["json", "xml_function", "pythonic", "gemma4", "glm4"])
@settings(max_examples=15)
@given(properties=st.dictionaries(st.sampled_from(["a", "bb", "path_to", "n1"]), walks.schemas(1), max_size=3),
       seed=st.integers(0, 1000))
def test_random_tools(format, properties, seed):
    tokens, tools = walks.tokenizer("gpt2"), [tool("do_it", properties, properties)]
    try:
        made = constraint(tokens, format, tools=tools)
    except GenerationError as error:
        assert format == "gemma4" and "can't be constrained" in str(error)  # its lists and objects aren't JSON
        return
    text = wander(tokens, made, seed)
    if text is None:
        return
    found = parse(text, format, tools)
    assert [call.name for call in found.tool_calls][:1] == ["do_it"] and not found.rejected, text
    if format == "json":  # elsewhere the reader gives a value the type that its schema prefers
        for call in found.tool_calls:
            jsonschema.validate(call.arguments, tools[0]["function"]["parameters"])


def test_under_auto_a_strict_tool_is_held_to_its_schema_wherever_a_call_begins(tokens):
    tools = [tool("get_weather", {"days": {"type": "integer"}}, ["days"], strict=True)]
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"days": %s}}\n</tool_call>'
    for text, allowed in (("Hello!", True), ("Let me see. " + call % "3", True), (call % '"three"', False),
                          (call % "3" + "\n" + call % "4" + " Done.", True), ("a < b", True), ("<tool_call>x", False)):
        made = constraint(tokens, "json", "auto", tools)
        assert walks.reaches(made, tokens.encode(text)) == allowed, text
    assert answer_constraint(tokens, tokens.eos_token_ids, None, "auto", Frame("json", TOOLS, None)) is None


def test_under_auto_a_format_that_begins_with_a_bracket(tokens):
    tools = [tool("stop", strict=True)]
    for text, allowed in (("Hi [there]", True), ("[stop()]", True), ("[go()]", False)):
        assert walks.reaches(constraint(tokens, "pythonic", "auto", tools), tokens.encode(text)) == allowed


def test_calls_or_an_answer_in_a_format(tokens):
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    for text, allowed in (('{"answer": 3}', True), ("three", False),
                          ('<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>', True)):
        tools = [tool("stop", strict=True)]
        made = constraint(tokens, "json", "auto", tools, response_format=schema)
        assert walks.reaches(made, tokens.encode(text)) == allowed


@pytest.mark.parametrize("inside", [False, True])
def test_reasoning_comes_first_and_is_free(tokens, inside):
    answer = ["yes", "no"]
    thought = ("" if inside else "<think>") + "\nWell, {is it}?\n</think>\n\n"
    for text, allowed in ((thought + "yes", True), (thought + "maybe", False), ("yes", not inside)):
        made = constraint(tokens, "json", "auto", None, THINKING, inside, answer)
        assert walks.reaches(made, tokens.encode(text)) == allowed, text
    call = find("json").write([ToolCall("stop", {})])
    assert walks.reaches(constraint(tokens, "json", protocol=THINKING, inside=inside), tokens.encode(thought + call))


@pytest.mark.parametrize("choice, tools, part", [
    ("required", None, "no tools"), ("required", [], "no tools"), ("get_wether", TOOLS, "get_weather"),
    ("", TOOLS, "choice"), (3, TOOLS, "choice"), ({"type": "function"}, TOOLS, "choice"),
    ("required", [tool("f", {}, ["x"])], "Unsatisfiable"), ("required", [tool("f", {"x": {"not": {}}}, ["x"])], "not"),
])
def test_what_cannot_be_forced_is_told(tokens, choice, tools, part):
    with pytest.raises(GenerationError, match=part):
        constraint(tokens, "json", choice, tools)


def test_arguments_that_are_not_declared_are_out_unless_the_tool_takes_them(tokens):
    for more, allowed in (({}, False), ({"additionalProperties": True}, True)):
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, **more}
        tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        text = find("json").write([ToolCall("f", {"a": 1, "b": 2})])
        assert walks.reaches(constraint(tokens, "json", tools=tools), tokens.encode(text)) == allowed


def test_a_function_named_as_in_openais_api(tokens):
    choice = {"type": "function", "function": {"name": "stop"}}
    assert check(wander(tokens, constraint(tokens, "json", choice), 1), "json").tool_calls[0].name == "stop"


def test_a_random_model_calls_when_it_must(tmp_path):
    def add(a: int, b: int) -> int:
        """Adds two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    model = load(tiny.checkpoint(tmp_path / "model", max_position_embeddings=4096))
    messages = [{"role": "user", "content": "2 + 3?"}]
    for choice in ("required", "add"):
        pieces = list(stream_generate(*model, messages, tools=[add], tool_choice=choice, max_tokens=300,
                                      temperature=2.0, seed=1, logit_bias={13: -5.0, 12: -5.0, 35: -5.0}))
        if pieces[-1].finish_reason == "length":
            continue
        assert pieces[-1].finish_reason == "tool_calls"
        calls = [call for piece in pieces for call in piece.tool_calls]
        assert {call.name for call in calls} == {"add"} and all(set(c.arguments) == {"a", "b"} for c in calls)
    with pytest.raises(GenerationError, match="add"):
        stream_generate(*model, messages, tools=[add], tool_choice="ad")
