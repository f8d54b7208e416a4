"""Templates of our own: what each writes, which checkpoint gets it, and that the calls they write can be read back."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from mlxlm.data import data_folder
from mlxlm.text.families import family_template
from mlxlm.text.template import render
from mlxlm.tools import infer_format, infer_reasoning, parse

sys.path.insert(0, str(Path(__file__).parents[1]))

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {"type": "function", "function": {"name": "now", "description": "d", "parameters": {
    "type": "object", "properties": {}}}}
TOLD = json.dumps([TOOL])
CALLS = [{"id": f"abcdefgh{n}", "type": "function", "function": {"name": "now", "arguments": given}}
         for n, given in ((1, {"zone": "é"}), (2, {}))]
SAID = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}]
SYSTEM = {"role": "system", "content": "S"}
CALLED = [SYSTEM, {"role": "user", "content": "A"}, {"role": "assistant", "content": "", "tool_calls": CALLS},
          {"role": "tool", "content": "noon", "tool_call_id": "abcdefgh1"},
          {"role": "tool", "content": "one", "tool_call_id": "abcdefgh2"},
          {"role": "assistant", "content": "It is."}, {"role": "user", "content": "C"}]


def written(name: str, messages, **options) -> str:
    template = (data_folder("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")
    tools = options.pop("tools", None)
    return render(template, messages, tools=tools, variables={**TOKENS, **options}).text


@pytest.mark.parametrize(("name", "text"), [
    ("chatml", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
               "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"),
    ("phi2", "S\nInstruct: A\nOutput: B\nInstruct: C\nOutput:"),
    ("vicuna", "<s>S USER: A ASSISTANT: B</s>USER: C ASSISTANT:"),
    ("phi4_mini", "<|system|>S<|end|><|user|>A<|end|><|assistant|>B<|end|><|user|>C<|end|><|assistant|>"),
    ("mistral_v11", "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]B</s>[INST]C[/INST]"),
    ("mistral_v13", "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]B</s>[INST]C[/INST]"),
    ("deepseek_v32", "<｜begin▁of▁sentence｜>S<｜User｜>A<｜Assistant｜></think>B<｜end▁of▁sentence｜>"
                     "<｜User｜>C<｜Assistant｜><think>"),
])
def test_a_conversation(name, text):
    assert written(name, [SYSTEM, *SAID]) == text


@pytest.mark.parametrize(("name", "text"), [
    ("mistral_v11", f"<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]"
     '[TOOL_CALLS]now[CALL_ID]abcdefgh1[ARGS]{"zone": "é"}[TOOL_CALLS]now[CALL_ID]abcdefgh2[ARGS]{}</s>'
     "[TOOL_RESULTS]abcdefgh1[TOOL_CONTENT]noon[/TOOL_RESULTS][TOOL_RESULTS]abcdefgh2[TOOL_CONTENT]one[/TOOL_RESULTS]"
     f"It is.</s>[AVAILABLE_TOOLS]{TOLD}[/AVAILABLE_TOOLS][INST]C[/INST]"),
    ("mistral_v13", f"<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][AVAILABLE_TOOLS]{TOLD}[/AVAILABLE_TOOLS][INST]A[/INST]"
     '[TOOL_CALLS]now[ARGS]{"zone": "é"}[TOOL_CALLS]now[ARGS]{}</s>'
     "[TOOL_RESULTS]noon[/TOOL_RESULTS][TOOL_RESULTS]one[/TOOL_RESULTS]It is.</s>[INST]C[/INST]"),
    ("phi4_mini", f"<|system|>S<|tool|>{TOLD}<|/tool|><|end|><|user|>A<|end|><|assistant|>"
     '<|tool_call|>[{"name": "now", "arguments": {"zone": "é"}}, {"name": "now", "arguments": {}}]<|/tool_call|><|end|>'
     "<|tool_response|>noon<|end|><|tool_response|>one<|end|><|assistant|>It is.<|end|><|user|>C<|end|><|assistant|>"),
])
def test_tools_and_results(name, text):
    """Mistral's are what mistral-common 1.x's instruct tokenizers of these versions write."""
    assert written(name, CALLED, tools=[TOOL]) == text


def test_deepseeks_thoughts_and_results():
    text = written("deepseek_v32", [CALLED[1], {**CALLED[2], "reasoning_content": "Hm."}, *CALLED[3:5]], tools=[TOOL])
    assert text.endswith(
        '<｜User｜>A<｜Assistant｜><think>Hm.</think>\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="now">\n'
        '<｜DSML｜parameter name="zone" string="true">é</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls><｜end▁of▁sentence｜>\n\n'
        "<function_results>\n<result>noon</result>\n<result>one</result>\n</function_results>\n\n<think>")
    assert written("deepseek_v32", SAID, enable_thinking=False).endswith("C<｜Assistant｜></think>")


@pytest.mark.parametrize(("name", "model_type", "format"), [
    ("mistral_v11", "mistral3", "mistral"), ("mistral_v13", "ministral3", "mistral"), ("phi4_mini", "phi3", "granite"),
    ("deepseek_v32", "deepseek_v32", "deepseek"),
])
def test_the_calls_that_they_write_are_read(name, model_type, format):
    template = (data_folder("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")
    assert infer_format(template, None, None) == format
    text = render(template, CALLED[1:3], tools=[TOOL], variables=TOKENS, add_generation_prompt=False).text
    start = max(text.find(mark) for mark in ("[/INST]", "<|assistant|>", "</think>"))
    output = parse(text[start:], format)
    assert [(c.name, c.arguments) for c in output.tool_calls] == [("now", {"zone": "é"}), ("now", {})]
    assert not output.rejected


def test_magistral_and_deepseek_reason():
    for name, start in (("mistral_v13", "[THINK]"), ("deepseek_v32", "<think>")):
        template = (data_folder("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")
        protocol = infer_reasoning(template)
        assert protocol is not None and protocol.start == start


@pytest.mark.parametrize(("model_type", "name", "own", "file"), [
    ("deepseek_v32", "deepseek-ai/DeepSeek-V3.2", None, "deepseek_v32"), ("phi", "microsoft/phi-2", None, "phi2"),
    ("mistral3", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", None, "mistral_v11"),
    ("mistral", "mistralai/Devstral-Small-2507", None, "mistral_v13"),
    ("mistral", "mistralai/Mistral-7B-v0.1", None, None),
    ("llama", "lmsys/vicuna-7b-v1.5", None, "vicuna"), ("llama", "meta-llama/Llama-2-7b", None, None),
    ("qwen", "Qwen/Qwen-7B-Chat", None, "chatml"), ("phi", "microsoft/phi-1_5", None, None),
    ("phi", "microsoft/phi-2", "its own", None), ("phi3", "microsoft/Phi-4-mini-instruct", "its own", None),
    ("phi3", "microsoft/Phi-4-mini-instruct", "<|tool|>{% if 'tools' in message %}", "phi4_mini"),
    ("phi3", "microsoft/Phi-3-mini", None, None), (None, None, None, None),
])
def test_which_checkpoint_gets_which(model_type, name, own, file):
    found = family_template(model_type, name, own)
    assert (Path(found[1]).stem if found else None) == file


def test_every_file_says_whose_it_is_and_is_named_by_the_table():
    rows = tomllib.loads((data_folder("registries") / "conventions.toml").read_text(encoding="utf-8"))["templates"]
    files = {path.name: path.read_text(encoding="utf-8") for path in data_folder("chat_templates").glob("*.jinja")}
    assert {row["file"] for row in rows} == set(files)
    for text in files.values():
        assert text.startswith("{#-") and "Source: " in text.partition("#}")[0]


def test_a_checkpoint_without_a_template_gets_its_familys(tmp_path):
    import tiny

    import mlxlm

    path = tiny.checkpoint(tmp_path / "vicuna-tiny", chat_template=None)
    _, processor = mlxlm.load(path)
    assert processor.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).endswith(
        "USER: Hi ASSISTANT:")
    _, processor = mlxlm.load(path, tokenizer_config={"chat_template": "mine"})
    assert processor.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "mine"
    _, processor = mlxlm.load(tiny.checkpoint(tmp_path / "plain", chat_template=None))
    assert not processor.has_chat_template
