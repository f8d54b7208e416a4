"""mlx-lm's parsers as a second opinion: what we write they read, and what is plain they and we read alike."""

from __future__ import annotations

from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.tools import ToolCall, format, parse
from mlxlm.tools.formats.mistral import write_list

PARSERS = {
    "json": "json_tools", "xml_function": "qwen3_coder", "qwen3_5": "qwen3_coder", "lfm2": "pythonic", "glm4": "glm47",
    "gemma": "function_gemma", "gemma4": "gemma4", "kimi_k2": "kimi_k2", "minimax_m2": "minimax_m2",
    "mistral": "mistral", "atem": "muse_spark", "longcat": "longcat", "minicpm": "minicpm5",
    "kimi_k3": "kimi_k3",
}
WORDS = st.from_regex(r"[a-z][a-z ]{0,8}[a-z]", fullmatch=True)
ARGUMENTS = st.fixed_dictionaries({"city": WORDS.filter(lambda word: word != "null"), "days": st.integers(-99, 10**6)})
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]


def theirs(module: str, text: str) -> tuple[str, dict]:
    parser = import_module(f"mlx_lm.tool_parsers.{module}")
    start, end = parser.tool_call_start, parser.tool_call_end
    body = text.split(start, 1)[1]
    found = parser.parse_tool_call(body.split(end, 1)[0] if end else body, TOOLS)
    (found,) = found if isinstance(found, list) else [found]
    return found["name"], found["arguments"]


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(arguments=ARGUMENTS)
def test_they_read_what_we_write(name, arguments):
    text = format([ToolCall("get_weather", arguments)], name, TOOLS)
    assert theirs(PARSERS[name], text) == ("get_weather", arguments)
    (call,) = parse(text, name, TOOLS).tool_calls
    assert (call.name, call.arguments) == ("get_weather", arguments)


def test_the_older_list_of_mistral():
    arguments = {"city": "Paris", "days": 2}
    assert theirs("mistral", write_list([ToolCall("get_weather", arguments)])) == ("get_weather", arguments)
