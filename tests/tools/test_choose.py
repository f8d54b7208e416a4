"""Which format and protocol a checkpoint gets: the order of the sources, and the table's agreement with the code."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mlxlm.errors import UsageError
from mlxlm.tools import FORMATS, declared_format, infer_format, infer_reasoning, reasoning_protocol
from mlxlm.tools.formats import find

TABLE = tomllib.loads((Path(__file__).parents[2] / "registries" / "conventions.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("template,format", [
    ("x<minimax:tool_call>x", "minimax_m2"), ("<|tool_call><tool_call|>", "gemma4"),
    ("<start_function_call>", "gemma"), ("<tool_call><arg_key>tool_call.name", "glm4"), ("<|tool_list_start|>", "lfm2"),
    ("<tool_call>\n<function=", "xml_function"), ("<tool_call>\\n<function=", "xml_function"),
    ("<|tool_calls_section_begin|>", "kimi_k2"), ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>{{ tool_call.name }}", "json"), ("<atem:function_calls>", "atem"),
    ("<longcat_tool_call>", "longcat"), ('<function name="f"><param name="p">', "minicpm"),
    ("<｜tool▁calls▁begin｜>", "deepseek"), ("hello", "json"), (None, "json"),
    ([{"name": "default", "template": "[TOOL_CALLS]"}, {"name": "tool_use", "template": "<arg_key>"}], "glm4"),
    ({"default": "[TOOL_CALLS]"}, "mistral"),
])
def test_by_the_template(template, format):
    assert infer_format(template) == format


def test_the_order_of_the_sources():
    assert infer_format("[TOOL_CALLS]", "glm47", "lfm2", "atem") == "atem"
    assert infer_format("[TOOL_CALLS]", "glm47", "lfm2") == "glm4"
    assert infer_format("[TOOL_CALLS]", "nobody_knows", "lfm2") == "mistral"
    assert infer_format("hello", None, "lfm2") == "lfm2"
    with pytest.raises(UsageError, match="unknown"):
        infer_format(configured="nope")


def test_what_a_declaration_absorbs():
    assert infer_format("<tool_call>\n<function=", None, "qwen3_5") == "qwen3_5"
    assert infer_format("<tool_call>tool_call.name", None, "qwen3_5") == "qwen3_5"
    assert infer_format("<arg_key>", None, "qwen3_5") == "glm4"
    assert infer_format("[TOOL_CALLS]", "json", "gpt_oss") == "gpt_oss"
    assert infer_format("[TOOL_CALLS]", None, "atem") == "atem"


def test_declared_by_the_config():
    assert declared_format({"model_type": "glm4_moe"}) == "glm4"
    assert declared_format({"model_type": "qwen3"}) is None and declared_format({}) is None
    assert declared_format({"model_type": "llama", "vocab_size": 128256}) == "llama3"
    assert declared_format({"model_type": "llama", "vocab_size": 32000}) is None
    assert declared_format({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}) == "llama3"
    assert declared_format({"model_type": "llama", "rope_parameters": {"rope_type": "llama3"}}) == "llama3"


def test_reasoning():
    assert infer_reasoning(model_type="deepseek_v3") is None
    assert infer_reasoning(model_type="deepseek_v3", id="deepseek-ai/DeepSeek-R1") == reasoning_protocol("think_always")
    by_id = infer_reasoning(model_type="qwen2", id="x/DeepSeek-R1-Distill-Qwen-7B")
    assert by_id is not None and by_id.switch is None
    qwen = infer_reasoning(model_type="qwen3")
    assert qwen is not None and qwen.implicit_ends == ("<tool_call>",) and qwen.switch == "enable_thinking"
    assert infer_reasoning("[THINK][/THINK]") == reasoning_protocol("magistral")
    assert infer_reasoning("<think>", configured=qwen) is qwen and infer_reasoning("hello") is None


def test_the_table_names_what_there_is():
    named = set(TABLE["parser_types"].values()) | {row["format"] for row in TABLE["markers"]} | {TABLE["default"]}
    named |= {row if isinstance(row, str) else row["format"] for row in TABLE["declared"].values()}
    named |= set(TABLE["absorbs"]) | {name for row in TABLE["absorbs"].values() if row != "all" for name in row}
    assert named <= set(FORMATS)
    protocols = {row["protocol"] for key in ("ids", "template_reasoning") for row in TABLE[key]}
    for name in protocols | set(TABLE["reasoning"].values()) | set(TABLE["protocols"]):
        assert reasoning_protocol(name).start
    openers = {opener for name in FORMATS for opener in find(name).openers}
    assert {end for name in TABLE["protocols"] for end in reasoning_protocol(name).implicit_ends} <= openers


def test_every_format_is_called_by_its_name():
    assert [find(name).name for name in FORMATS] == list(FORMATS)


def test_importing_brings_nothing_heavy():
    code = "import sys, mlxlm.tools; print({'mlx.core', 'numpy', 'jinja2', 'tokenizers', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
