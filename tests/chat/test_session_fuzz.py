"""Whatever a model writes, in whatever format: a turn ends, raises nothing, loses nothing, and the next one goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import CHATML, THINKING, Actor, make_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from tool_cases import MARKERS, ODD_TEXT

from mlxlm.chat import ChatSession
from mlxlm.configuration import ModelConfiguration
from mlxlm.tools import FORMATS, ToolCall, format
from mlxlm.tools.formats import find

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {
    "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}}}]
CALL = {name: format([ToolCall("f", {"a": "x", "b": 2})], name, TOOLS) for name in FORMATS}
TOKENIZERS = {template: make_tokenizer(template) for template in (CHATML, THINKING)}
ENDINGS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")  # tokens of the tokenizer in use: they end an answer


@st.composite
def replies(draw):
    """A format and what a model writes: calls, whole, cut or damaged, among other text."""
    name = draw(st.sampled_from(FORMATS))
    parts = st.one_of(st.just(CALL[name]), st.sampled_from(MARKERS), ODD_TEXT, st.sampled_from(["<think>", "</think>"]))
    text = "".join(draw(st.lists(parts, min_size=1, max_size=5)))
    cut = draw(st.integers(0, len(text)))
    return name, draw(st.sampled_from([text, text[:cut], text[cut:]]))


@settings(max_examples=80, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(case=replies(), thinking=st.booleans(), runs=st.booleans())
def test_any_answer(case, thinking, runs):
    name, text = case
    if any(end in text for end in ENDINGS) or "\ufffd" in text:
        return
    thinking = thinking and find(name).router is None  # those have marks of their own for reasoning
    tokenizer = TOKENIZERS[THINKING if thinking else CHATML]
    model = Actor(tokenizer, lambda prompt: "Good." if "Next" in prompt else text, model_type="qwen3")
    functions = {"f": lambda **arguments: "done"} if runs else None
    chat = ChatSession(model, tokenizer, tools=TOOLS, functions=functions, max_tool_rounds=1, max_tokens=2000,
                       configuration=ModelConfiguration(directory="x", tool_call_format=name))
    events = list(chat.stream("A"))
    first = [event for event in events[:1 + next(i for i, e in enumerate(events) if e.finish_reason)]]
    written = "".join(part.text for event in first for part in (event.piece.events if event.piece else ()))
    assert written == text
    for call in chat.pending:
        chat.add_result(call, "late")
    assert chat.messages == [] or chat.messages[0] == {"role": "user", "content": "A"}
    model.script = lambda prompt: "</think>Good." if thinking else "Good."
    assert chat.respond("Next").strip() == "Good."


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_of_every_format_is_run(name):
    tokenizer = TOKENIZERS[CHATML]
    model = Actor(tokenizer, [CALL[name], "Good."])
    seen = []
    chat = ChatSession(model, tokenizer, tools=TOOLS, functions={"f": lambda **given: seen.append(given) or "done"},
                       configuration=ModelConfiguration(directory="x", tool_call_format=name), max_tokens=500)
    assert chat.respond("A") == "Good." and seen == [{"a": "x", "b": 2}]
