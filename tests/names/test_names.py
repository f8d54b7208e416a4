"""Model names read word by word: every example of the project's naming guide, released names, and anything at all."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlxlm import names
from mlxlm.errors import UsageError
from mlxlm.names import parse

# name: what must be read from it. The names before the blank line are the guide's own examples.
READ = {
    "meta-llama/Llama-3.1-8B": dict(
        organization="meta-llama", family="Llama", version="3.1", parameters=8e9, stage="base"),
    "Qwen/Qwen2.5-7B-Base": dict(family="Qwen", version="2.5", parameters=7e9, stage="base"),
    "meta-llama/Llama-3.1-8B-Instruct": dict(family="Llama", version="3.1", stage="instruct"),
    "Qwen/Qwen2-7B-Chat": dict(family="Qwen", version="2", stage="chat"),
    "google/gemma-2-9b-it": dict(family="Gemma", version="2", parameters=9e9, stage="instruct"),
    "tiiuae/falcon-7b-hf": dict(family="Falcon", parameters=7e9, purpose=("hf",)),
    "Llama-2-7b-chat-RLHF": dict(version="2", stage="chat", alignment="RLHF"),
    "NousResearch/Hermes-2-Pro-Llama-3-8B-DPO": dict(
        organization="NousResearch", family="Hermes", version="2", purpose=("pro",), base="Llama 3", parameters=8e9,
        alignment="DPO"),
    "mlabonne/OrpoLlama-3-8B": dict(family="OrpoLlama", base="Llama", alignment="ORPO", parameters=8e9),
    "model-kto": dict(alignment="KTO"),
    "model-ppo": dict(alignment="PPO"),
    "model-simpo": dict(alignment="SimPO"),
    "model-7B-SFT": dict(tuning="SFT", parameters=7e9),
    "model-7B-LoRA": dict(tuning="LoRA", format="adapter"),
    "model-7B-QLoRA": dict(tuning="QLoRA", format="adapter"),
    "model-7B-LoRA-merged": dict(tuning="merged", format="safetensors", loadable="yes"),
    "model-7B-FT": dict(tuning="FT"),
    "model-7B-adapter": dict(tuning="adapter", format="adapter"),
    "model-fp32": dict(bits=32),
    "model-fp16": dict(bits=16),
    "model-bf16": dict(bits=16),
    "model-int8": dict(bits=8),
    "model-int4": dict(bits=4),
    "TheBloke/Llama-2-7B-GPTQ": dict(quantization="GPTQ", format="gptq", version="2"),
    "TheBloke/Llama-2-7B-AWQ": dict(quantization="AWQ", format="awq"),
    "model-Q4_K_M.gguf": dict(format="gguf", level="Q4_K_M", bits=4, loadable="yes"),
    "model-EXL2": dict(quantization="EXL2", format="exl2"),
    "model-bnb-4bit": dict(quantization="bitsandbytes", bits=4, format="bitsandbytes"),
    "Llama-3.1-405B": dict(parameters=405e9),
    "Qwen2.5-0.5B": dict(parameters=5e8, version="2.5"),
    "Llama-2-13B": dict(parameters=13e9, version="2"),
    "Yi-34B": dict(family="Yi", parameters=34e9),
    "Llama-3.1-70B": dict(parameters=70e9),
    "Mixtral-8x7B": dict(family="Mixtral", parameters=56e9),
    "Qwen2.5-A14B": dict(active=14e9, parameters=None),
    "Qwen/Qwen2-VL-7B-Instruct": dict(kind="vlm", modality="vision-language", version="2"),
    "model-Vision": dict(modality="vision-language"),
    "liuhaotian/llava-v1.6-mistral-7b": dict(family="LLaVA", version="1.6", base="Mistral", kind="vlm"),
    "model-MM": dict(modality="multimodal"),
    "model-Omni": dict(modality="omni"),
    "Qwen2.5-Coder-7B": dict(purpose=("code",)),
    "Qwen2.5-Math-7B": dict(purpose=("math",)),
    "model-Med": dict(purpose=("medical",)),
    "model-Legal": dict(purpose=("legal",)),
    "model-Finance": dict(purpose=("finance",)),
    "model-RP": dict(purpose=("roleplay",)),
    "model-Uncensored": dict(purpose=("uncensored",)),
    "model-abliterated": dict(purpose=("abliterated",)),
    "model-Turbo": dict(purpose=("turbo",)),
    "Phi-3-mini": dict(family="Phi", version="3", purpose=("mini",)),
    "Gemma-2-Pro": dict(purpose=("pro",)),
    "model-Preview": dict(purpose=("preview",)),
    "model-Long": dict(purpose=("long",)),
    "model-20250201": dict(date="20250201"),
    "TheBloke/Llama-2-13B-Chat-GPTQ": dict(organization="TheBloke", stage="chat", parameters=13e9, format="gptq"),
    "Qwen/Qwen2.5-72B-Instruct-AWQ": dict(parameters=72e9, stage="instruct", quantization="AWQ"),
    "liuhaotian/llava-v1.6-mistral-7b-hf": dict(base="Mistral", parameters=7e9, purpose=("hf",)),

    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": dict(family="Nemotron", parameters=30e9, active=3e9, bits=16),
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": dict(version="3", parameters=480e9, active=35e9, purpose=("code",)),
    "Qwen/Qwen3-Coder-Next": dict(family="Qwen", stage="chat"),
    "mlx-community/DeepSeek-R1-Distill-Qwen-7B-4bit": dict(
        family="DeepSeek", base="Qwen", tuning="distilled", bits=4, format="mlx"),
    "mlx-community/Mistral-Nemo-Instruct-2407-4bit": dict(family="Mistral", version=None, date="2407"),
    "mlx-community/GLM-4-9B-0414-4bit": dict(family="GLM", version="4", date="0414", parameters=9e9),
    "mlx-community/gemma-3n-E4B-it-lm-4bit": dict(version="3n", parameters=4e9, stage="instruct"),
    "mlx-community/Qwen3-4B-4bit-DWQ": dict(parameters=4e9, bits=4, quantization="DWQ"),
    "microsoft/Phi-3-mini-4k-instruct": dict(context=4096, stage="instruct"),
    "openai/gpt-oss-20b": dict(family="gpt-oss", stage="chat", parameters=20e9),
    "HuggingFaceTB/SmolLM2-135M-Instruct": dict(family="SmolLM", version="2", parameters=135e6),
    "OpenGVLab/InternVL3-78B": dict(kind="vlm", version="3", parameters=78e9),
    "meta-llama/Llama-3.2-11B-Vision-Instruct": dict(kind="vlm", version="3.2"),
    "BAAI/bge-large-en-v1.5": dict(kind="embedding", version="1.5"),
    "openai/whisper-large-v3": dict(kind="speech", version="3"),
    "stabilityai/stable-diffusion-xl-base-1.0": dict(kind="image"),
    "Qwen3-30B-A3B-UD-Q4_K_XL-00001-of-00002.gguf": dict(format="gguf", level="Q4_K_XL", bits=4, active=3e9),
    "Qwen3-0.6B.IQ4_XS.gguf": dict(level="IQ4_XS", bits=4, parameters=6e8),
    "pytorch_model.bin": dict(format="pytorch"),
}


@pytest.mark.parametrize("text", READ)
def test_a_name_is_read(text):
    name = parse(text)
    assert {field: getattr(name, field) for field in READ[text]} == READ[text]


@pytest.mark.parametrize("text", READ)
def test_every_word_of_a_name_is_explained(text):
    read = "".join(part.text for part in parse(text).parts)
    letters = "".join(c for c in text.replace("-00001-of-00002", "") if c.isalnum()).lower()
    assert sorted(c for c in read.lower() if c.isalnum()) == sorted(letters)
    assert all(part.meaning for part in parse(text).parts)


@pytest.mark.parametrize("level", names.tables()["gguf"])
def test_every_gguf_level(level):
    name = parse(f"some-7B-{level}.gguf")
    assert (name.level, name.format, name.bits) == (level, "gguf", names.tables()["gguf"][level]["bits"])


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_a_usage_error(text):
    try:
        name = parse(text)
    except UsageError:
        return
    json.dumps(name.as_dict())


@pytest.mark.parametrize("text", ["", "  ", "a b", "a/b/c", "x" * 400])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(UsageError, match="can't be the name"):
        parse(text)


def test_the_tables_hold_together():
    from mlxlm import LLMTypeRegistry, VLMTypeRegistry

    tables = names.tables()
    for role in names.ROLES:
        for word, row in tables[role].items():
            assert word == word.lower() and row["meaning"], word
            assert row.get("format", "gguf") in tables["formats"], word
    for key, row in names.families().items():
        assert row["kind"] in tables["kinds"], key
        for model_type in row.get("types", ()):
            assert any(r.shared.contains(model_type) for r in (LLMTypeRegistry, VLMTypeRegistry)), (key, model_type)
    for rows in tables["guide"].values():
        for model in (model for row in rows for model in row["models"]):
            assert parse(model).family, model


def test_the_command_prints_a_table_and_json():
    from mlxlm.cli.name import command

    shown = CliRunner().invoke(command, ["TheBloke/Llama-2-13B-Chat-GPTQ"])
    assert shown.exit_code == 0
    assert "Llama, version 2, by Meta" in shown.output and "loads here: yes" in shown.output
    said = json.loads(CliRunner().invoke(command, ["Qwen3-8B-4bit", "--json"]).output)
    assert said["family"] == "Qwen" and said["bits"] == 4
    assert "StarCoder2-3B" in CliRunner().invoke(command, ["--guide", "code"]).output
