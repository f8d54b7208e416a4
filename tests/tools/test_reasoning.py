"""Reasoning kept apart: markers with their newlines, prompts that end inside, and calls in the middle of a thought."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_cases import account, essence, streamed

from mlxlm.configuration import ReasoningConfig, TemplateFlag
from mlxlm.tools import ReasoningProtocol, assistant_message, parse, reasoning_protocol, result_message

CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
NAMES = ("think", "think_always", "qwen", "minimax", "kimi", "kimi_vl", "gemma4", "magistral", "longcat",
         "think_tokens")

# protocol, format, text, inside, reasoning, content, calls
CASES = [
    ("think", None, "<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes.", 0),
    ("think", None, "Hm.\n</think>\n\nYes.", True, "Hm.", "Yes.", 0),
    ("think", None, "\nHm.</think>Yes.", True, "Hm.", "Yes.", 0),
    ("think", None, "<think>\n\n</think>\n\nYes.", False, "", "Yes.", 0),
    ("think", None, "<think>Hm. a < b </thin", False, "Hm. a < b </thin", "", 0),
    ("think", None, "<think>a <think> b</think>c", False, "a <think> b", "c", 0),
    ("think", None, "The tag <think> opens.", False, "", "The tag <think> opens.", 0),
    ("think", None, "  \n<think>Hm.</think>\n\n\n  Yes.", False, "Hm.", "  \n\n  Yes.", 0),
    ("think", "json", f"<think>I say {CALL} soon.</think>Yes.", False, f"I say {CALL} soon.", "Yes.", 0),
    ("think", "json", f"<think>Hm.</think>{CALL}<think>More.</think>Yes.", False, "Hm.More.", "Yes.", 1),
    ("qwen", "json", f"Hm.\n{CALL}\nDone.", True, "Hm.\n", "\nDone.", 1),
    ("qwen", "json", "The <tool_call> tag, and <tool_call>{x}</tool_call>.</think>Yes.", True,
     "The <tool_call> tag, and <tool_call>{x}</tool_call>.", "Yes.", 0),
    ("qwen", "json", 'Cut: <tool_call>{"name": "f", </think>Yes.', True, 'Cut: <tool_call>{"name": "f", ', "Yes.", 0),
    ("qwen", "qwen3_5", "Hm.<tool_call>\n<function=now>\n</function>\n</tool_call>", True, "Hm.", "", 1),
    ("minimax", "minimax_m2", '<think>Hm.<minimax:tool_call><invoke name="now"></invoke></minimax:tool_call>', False,
     "Hm.", "", 1),
    ("kimi_vl", None, "◁think▷Hm.◁/think▷Yes.", False, "Hm.", "Yes.", 0),
    ("gemma4", "gemma4", "<|channel>thought\nHm.\n<channel|>Yes.<|tool_call>call:now{}<tool_call|>", False, "Hm.",
     "Yes.", 1),
    ("gemma4", None, "<|channel>thought\nHm.<|channel>response\nYes.", False, "Hm.", "Yes.", 0),
    ("magistral", "mistral", "[THINK]Hm.[/THINK]Yes.[TOOL_CALLS]now[ARGS]{}", False, "Hm.", "Yes.", 1),
    ("magistral", "mistral", "[THINK]Hm.[TOOL_CALLS]now[ARGS]{}", False, "Hm.", "", 1),
    ("longcat", "longcat", "<longcat_think>Hm.</longcat_think><longcat_tool_call>now</longcat_tool_call>", False,
     "Hm.", "", 1),
    (None, "gpt_oss", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
                      "<|return|>", False, "Hm.", "Yes.", 0),
    (None, "gpt_oss", "Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.now<|message|>{}<|call|>", True,
     "Hm.", "", 1),
    (None, "gpt_oss", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>analysis to=functions.now "
                      "code<|message|>{}<|call|>", False, "Hm.", "", 1),
    (None, "atem", " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Yes.<|eot|>", False, "Hm.",
     "Yes.", 0),
    (None, "atem", "Hm.<|eom|><|start|>assistant to=now<|message|><atem:function_calls><atem:invoke name=\"now\">"
                   "</atem:invoke></atem:function_calls><|eot|>", True, "Hm.", "", 1),
    (None, "atem", "to=say the truth\n<|start|>assistant", False, "", "to=say the truth\n<|start|>assistant", 0),
]


@pytest.mark.parametrize("protocol,format,text,inside,reasoning,content,calls", CASES)
def test_reasoning_is_kept_apart(protocol, format, text, inside, reasoning, content, calls):
    settings = {"reasoning": protocol and reasoning_protocol(protocol), "inside": inside}
    output = parse(text, format, **settings)
    account(output, text)
    assert (output.reasoning, output.content, len(output.tool_calls)) == (reasoning, content, calls)
    assert not output.rejected
    assert essence(streamed(text, list(range(1, len(text))), format, **settings)) == essence(output)


def test_json_in_a_thought_is_shown_once():
    protocol = ReasoningProtocol("<think>", "</think>", implicit_ends=("{",))
    text = '{"a": {"b": 1}} </think>Yes.'
    for cuts in ([], [3], list(range(1, len(text)))):
        output = streamed(text, cuts, "json", reasoning=protocol, inside=True)
        account(output, text)
        assert (output.reasoning, output.content) == ('{"a": {"b": 1}} ', "Yes.")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(thought=st.text("ab \n<>/[]|", max_size=12), answer=st.text("ab \n<>/[]|", max_size=12))
def test_what_is_written_is_read(name, thought, answer):
    protocol = reasoning_protocol(name)
    text = protocol.write(thought) + answer
    output = parse(text, reasoning=protocol)
    account(output, text)
    assert (output.reasoning, output.content) == (thought, answer)
    assert essence(streamed(text, list(range(1, len(text))), None, reasoning=protocol)) == essence(output)


def test_a_prompt_that_ends_inside():
    think = reasoning_protocol("think")
    assert think.open_in("<|im_start|>assistant\n<think>\n") and think.open_in("a</think>b<think>And so")
    assert not think.open_in("<think>\n\n</think>\n\n") and not think.open_in("Hello")


def test_from_a_configuration():
    config = ReasoningConfig("<a>", "</a>", TemplateFlag("on"), implicit_end_delimiters=("<tool_call>",))
    assert ReasoningProtocol.of(config) == ReasoningProtocol("<a>", "</a>", implicit_ends=("<tool_call>",), switch="on")


def test_messages_for_a_template():
    output = parse(f"<think>Hm.</think>Look.{CALL}", "json", reasoning=reasoning_protocol("qwen"))
    (call,) = output.tool_calls
    assert assistant_message(output) == {
        "role": "assistant", "content": "Look.", "reasoning_content": "Hm.",
        "tool_calls": [{"type": "function", "id": call.id, "function": {"name": "now", "arguments": {}}}]}
    assert result_message(call, {"hour": 3}) == {"role": "tool", "tool_call_id": call.id, "name": "now",
                                                 "content": '{"hour": 3}'}
