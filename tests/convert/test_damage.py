"""Damaged sources of a conversion and an adapter: an error of ours, and nothing where the result would stand."""

import json
import random

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.convert import Conversion, Recipe, Setting, convert
from mlxlm.convert.card import card
from mlxlm.errors import MLXLMError

COUNT = 60


@pytest.mark.parametrize("seed", range(COUNT))
def test_bytes_changed_or_cut(seed, model, tmp_path):
    """A changed byte in the numbers is another number; anywhere else it must be told or be of no consequence."""
    choose = random.Random(seed)
    source = tmp_path / "m"
    source.mkdir()
    for file in model.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    file = source / choose.choice(["config.json", "model.safetensors", "tokenizer.json"])
    data = bytearray(file.read_bytes())
    if choose.random() < 0.4:
        del data[choose.randrange(len(data)):]
    else:
        for _ in range(choose.randrange(1, 6)):
            data[choose.randrange(min(len(data), 3000))] = choose.randrange(256)
    file.write_bytes(data)
    out = tmp_path / "out"
    try:
        convert(source, out, recipe=Recipe(Setting(4, 32), fit=False))
    except MLXLMError as error:
        assert str(error) and not out.exists()
    else:
        assert json.loads((out / "config.json").read_text())["quantization"]["bits"] == 4


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_overrides_are_taken_or_refused(text):
    from mlxlm.convert.recipes import parse_override

    try:
        pattern, setting = parse_override(text)
    except MLXLMError:
        return
    assert pattern and (setting is None or setting.bits in (2, 3, 4, 5, 6, 8))


def test_the_card_of_a_model_that_sees(tmp_path):
    done = Conversion(tmp_path, "org/model", 10, 20, {"vision_config": {}}, recipe=Recipe(Setting(4)), method="dwq")
    text = card(done)
    assert "pipeline_tag: image-text-to-text" in text and 'images=["picture.png"]' in text and ", dwq |" in text
    assert "pipeline_tag: text-generation" in card(Conversion(tmp_path, "org/model", 10, 20, {}))


def test_a_source_that_is_no_model(tmp_path):
    tiny.checkpoint(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(MLXLMError, match="pickles"):
        convert(tmp_path / "m", tmp_path / "out")
