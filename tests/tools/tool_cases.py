"""What the tests of tool formats share: strategies for calls, schemas made from values, and the accounting."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from mlxlm.tools import FORMATS, ParsedOutput, ToolCall, ToolStream
from mlxlm.tools.formats import find

# Formats whose values are quoted or escaped: they can write anything.
EXACT = ("json", "lfm2", "pythonic", "kimi_k2", "mistral", "llama3", "gpt_oss", "deepseek", "granite")
MARKERS = sorted({
    "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "</parameter>", "<arg_key>",
    "</arg_key>", "<arg_value>", "</arg_value>", "<invoke name=\"f\">", "</invoke>", "<escape>", '<|"|>', "call:f{",
    "```", "]]>", "<![CDATA[", "[ARGS]", "[CALL_ID]", "<|message|>", "<|call|>", "<|end|>", "<|channel|>", "<think>",
    "</think>", "<|tool_call_end|>", "<|tool_call_begin|>", "<|tool_calls_section_end|>", '{"name": "f"', "[f(a=1)]",
    "<|tool_call_argument_begin|>", "<|start|>", "<|eom|>",
    "to=self<|message|>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "; ", "\\", "\"", "'", "\n", "}", "{",
    *(opener for name in FORMATS for opener in find(name).openers),
    *(getattr(find(name), "closer", "") for name in ("gemma", "gemma4")),
})
ODD_TEXT = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(MARKERS),
                              st.text("<>[]{}()\"'\\|:,=/ \n\tab10", max_size=8)), max_size=4).map("".join)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-10**20, 10**20),
                    st.floats(allow_nan=False, allow_infinity=False), ODD_TEXT)
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3),
                                                       st.dictionaries(ODD_TEXT, inner, max_size=3)), max_leaves=6)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=1, max_size=3)
PLAIN = st.text("ab .,!?é\n-", max_size=12)
TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}


def schema_of(value: Any) -> dict[str, Any]:
    """A JSON schema that lets this value pass, as tightly as it can."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {key: schema_of(one) for key, one in value.items()}}
    if isinstance(value, list):
        return {"type": "array", "prefixItems": [schema_of(one) for one in value]}
    return {"type": TYPES[type(value)]}


def tools_for(calls: list[ToolCall]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": call.name, "parameters": schema_of(call.arguments)}}
            for call in calls]


def unique_names(calls: list[ToolCall]) -> list[ToolCall]:
    """One schema a name: calls of one tool would have to agree on theirs."""
    return [ToolCall(f"{call.name}{index}", call.arguments, call.id) for index, call in enumerate(calls)]


def essence(output: ParsedOutput) -> Any:
    """All that parsing found, but for the ids, which are random."""
    return ([(piece.kind, piece.text) for piece in output.pieces], output.content, output.reasoning,
            [(call.name, call.arguments, call.raw) for call in output.tool_calls], output.rejected)


def streamed(text: str, cuts: list[int], format: str | None, tools: Any = None, **settings: Any) -> ParsedOutput:
    """The text fed in the parts between the cuts; the events are checked against the result on the way."""
    stream = ToolStream(format, tools, **settings)
    events = []
    for start, end in pairwise([0, *cuts, len(text)]):
        events += stream.feed(text[start:end])
    shown = "".join(event.text for event in events)
    output = stream.finish()
    assert shown + "".join(event.text for event in stream.tail) == text
    assert [event.call for event in events if event.call] == list(output.tool_calls[:sum(e.kind == "call"
                                                                                        for e in events)])
    return output


def account(output: ParsedOutput, text: str) -> None:
    """Nothing vanished: the pieces are the text, and each is what the output says that it is."""
    assert "".join(piece.text for piece in output.pieces) == text
    for kind, whole in (("content", output.content), ("reasoning", output.reasoning)):
        assert "".join(piece.text for piece in output.pieces if piece.kind == kind) == whole
    assert [piece.text for piece in output.pieces if piece.kind == "call"] == [c.raw for c in output.tool_calls]
    assert [piece.text for piece in output.pieces if piece.kind == "rejected"] == [r.raw for r in output.rejected]
    assert all(piece.text for piece in output.pieces)
