"""Chat templates of real families, out of packages that collect them: rendered as transformers does, and read back.

The packages (trl, axolotl; Apache 2.0) are downloaded and opened as archives; nothing of them is installed or run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from functools import cache

from rendering import CALL, TOOLS, compare, ours

from mlxlm.errors import MLXLMError
from mlxlm.sources import wheels
from mlxlm.tools import infer_format, infer_reasoning, parse

PACKAGES = ("trl==1.16.0", "axolotl==0.19.0")


@cache
def templates() -> dict[str, str]:
    """The templates by package and name, without those that only mark what is trained on."""
    folder = wheels.cache_folder().parent / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for package in PACKAGES:
        name, _, version = package.partition("==")
        path = next(folder.glob(f"{name}-{version}-*.whl"), None)
        if path is None:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d",
                       str(folder), package]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            path = next(folder.glob(f"{name}-{version}-*.whl"))
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                short = entry.rpartition("/")[2].removesuffix(".jinja")
                if entry.endswith(".jinja") and not short.endswith("_training"):
                    found[f"{name}/{short}"] = archive.read(entry).decode("utf-8")
    return found


THINK, NONE = "<think>", ""
# Family (the beginning of a template's name), its formats of calls, and how its reasoning starts.
FAMILIES = [
    ("trl/qwen3", ("json", "xml_function"), (THINK, NONE)), ("trl/qwen2_5", ("json",), (NONE,)),
    ("trl/glm4moe", ("glm4",), (THINK,)), ("trl/gptoss", ("gpt_oss",), ("<|channel|>analysis<|message|>",)),
    ("trl/deepseekv3", ("deepseek", "json"), (NONE, THINK)), ("trl/gemma4", ("gemma4",), ("<|channel>thought",)),
    ("trl/lfm2", ("lfm2",), (NONE, THINK)), ("trl/llama3_1", ("llama3",), (NONE,)),
    ("trl/llama3_2", ("llama3",), (NONE,)), ("trl/nemotron_3", ("xml_function",), (THINK,)),
    ("trl/muse_glimmer", ("atem",), ("to=self<|message|>",)), ("axolotl/mistral_v2", ("mistral",), (NONE,)),
    ("axolotl/mistral_v3", ("mistral",), (NONE,)), ("axolotl/qwen_25", ("json",), (NONE,)),
    ("axolotl/qwen3", ("json", "xml_function"), (THINK,)), ("axolotl/gemma4", ("gemma4",), ("<|channel>thought",)),
    ("axolotl/exaone4", ("json",), (THINK,)), ("axolotl/jamba", ("json",), (NONE,)),
]
DECLARED = {"trl/gptoss": ("gpt_oss", "gpt_oss"), "trl/llama3": ("llama", "llama3"),
            "trl/muse_glimmer": ("muse_glimmer", "atem"), "trl/gemma4": ("gemma4", "gemma4")}
"""model_type and declared format, for families whose template doesn't show them."""
WANTED = [("get_weather", {"city": "Köln", "days": 2})]
CALLED = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]


def test_every_template_renders_as_in_transformers():
    rendered = {name: compare(text) for name, text in templates().items()}
    assert len(rendered) > 70 and sum(rendered.values()) > 2000
    assert [name for name, count in rendered.items() if not count] == []


def family_templates():
    return [(name, format, start) for prefix, format, start in FAMILIES for name in sorted(templates())
            if name.startswith(prefix)]


def test_every_family_is_known_by_its_template_and_its_calls_are_read():
    read = set()
    for name, formats, starts in family_templates():
        template = templates()[name]
        model_type, declared = next((d for prefix, d in DECLARED.items() if name.startswith(prefix)), (None, None))
        format = infer_format(template, None, declared)
        assert format in formats, name
        protocol = infer_reasoning(template, model_type=model_type)
        assert (protocol.start if protocol else "") in starts, name
        if written := answer(template):
            output = parse(written, format, TOOLS, reasoning=protocol)
            assert [(c.name, c.arguments) for c in output.tool_calls] == WANTED, (name, written)
            assert not output.rejected, name
            read.add(format)
    assert read >= {"json", "xml_function", "glm4", "gpt_oss", "gemma4", "lfm2", "llama3", "mistral", "atem"}


def answer(template: str) -> str:
    """What a template writes for an assistant's call behind the question; empty where it writes none."""
    try:
        before = ours(template, CALLED[:1], {"tools": TOOLS})
        whole = ours(template, CALLED, {"tools": TOOLS})
    except MLXLMError:
        return ""
    at = len(before)
    while at and not whole.startswith(before[:at]):
        at -= 1
    text = re.split(r"<\|im_end\|>|<\|eot_id\|>|<turn\|>", whole[at:])[0]
    return text if "get_weather" in text else ""
