"""Pairs are judged by name before anything is fetched, then by their vocabularies; the reason is always told."""

import json

import pytest
from tiny import checkpoint

from mlxlm import load
from mlxlm.draft import Draft, advice, base_name, check_names, check_pair
from mlxlm.errors import MLXLMError, UsageError
from mlxlm.generate import stream_generate


@pytest.mark.parametrize(("name", "base"), [
    ("mlx-community/Qwen2.5-7B-Instruct-4bit", "qwen2.5-7b-instruct"),
    ("Qwen/Qwen2.5-Coder-32B-Instruct-GGUF", "qwen2.5-coder-32b-instruct"),
    ("models/Qwen3-Next-80B-A3B-Instruct-4bit-DWQ/", "qwen3-next-80b-a3b-instruct"),
    ("unsloth/DeepSeek-R1-Distill-Qwen-7B-bf16", "deepseek-r1-distill-qwen-7b"),
])
def test_names_without_quantization_and_format(name, base):
    assert base_name(name) == base


@pytest.mark.parametrize(("target", "draft", "k"), [
    ("Qwen/Qwen2.5-Coder-32B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", 24),
    ("mlx-community/Qwen2.5-7B-Instruct-4bit", "mlx-community/Qwen2.5-Coder-0.5B-4bit", 24),
    ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B", 8),
])
def test_known_pairs(target, draft, k):
    said = check_names(target, draft)
    assert said.k == k and said.lookup == (k == 24) and not said.refused


@pytest.mark.parametrize(("target", "reason"), [
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "BOS"),
    ("mlx-community/Qwen3-VL-30B-A3B-Instruct-4bit", "images"),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "vocabularies"),
])
def test_excluded_pairs_are_refused_before_anything_is_fetched(target, reason, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match=reason):
        load(target, draft="Qwen/Qwen2.5-0.5B-Instruct")
    assert check_names(target, "lookup").refused == ""  # the text itself is always of the right vocabulary


@pytest.mark.parametrize("target", ["Qwen/Qwen3-32B", "Qwen/Qwen3-Next-80B-A3B-Instruct"])
def test_doubts_are_a_warning(target):
    with pytest.warns(UserWarning, match="draft"):
        assert check_names(target, "Qwen/Qwen3-0.6B").doubtful
    assert not advice("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-0.5B").doubtful


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("pair")
    return checkpoint(at / "large"), checkpoint(at / "small", seed=1, num_hidden_layers=1)


def test_a_model_brings_its_draft(folders):
    large, small = folders
    model, processor = load(large, draft=str(small))
    assert isinstance(model.draft, Draft) and model.draft.k == 8
    expected = [p.token for p in stream_generate(model, processor, "Hello", max_tokens=30, draft=False)]
    stream = stream_generate(model, processor, "Hello", max_tokens=30)
    assert [p.token for p in stream] == expected
    assert stream.stats.draft_tokens > 0
    names = {name for name, _ in model.named_modules()}
    assert not any("draft" in name for name in names)  # it isn't among the model's weights
    other = stream_generate(model, processor, "Hello", max_tokens=30, draft=load(small), num_draft_tokens=2)
    assert [p.token for p in other] == expected
    model, processor = load(large, draft="lookup")
    assert [p.token for p in stream_generate(model, processor, "Hello", max_tokens=30)] == expected


def edited(folder, change):
    """The tokenizer.json of a folder, changed in place."""
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return folder


def test_another_vocabulary_is_told(folders, tmp_path):
    large, _ = folders

    def swap(data):
        vocab = data["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]

    odd = edited(checkpoint(tmp_path / "swapped"), swap)
    with pytest.raises(UsageError, match=r"another vocabulary.*'[ab]' being"):
        load(large, draft=str(odd))
    begins = checkpoint(tmp_path / "begins")
    settings = json.loads((begins / "tokenizer_config.json").read_text())
    (begins / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<|im_start|>"}))
    with pytest.raises(UsageError, match="begins its text"):
        load(large, draft=str(begins))
    with pytest.raises(MLXLMError):
        load(large, draft=str(tmp_path / "none"))


def test_models_that_see_are_told(folders):
    large, _ = folders

    class Seeing:
        vision_tower, model_type = object(), "qwen3_vl"

    model, processor = load(large)
    with pytest.raises(UsageError, match="see"):
        check_pair(Seeing(), processor, model, processor)
    with pytest.raises(UsageError, match="see"):
        check_pair(model, processor, Seeing(), processor)


def test_sizes_count_where_there_is_no_tokenizer(folders):
    from tiny_models import model as tiny

    model, processor = load(folders[0])
    with pytest.raises(UsageError, match="another vocabulary"):
        stream_generate(model, processor, "Hello", draft=tiny("attention"))
    with pytest.raises(MLXLMError, match="predicts ahead"):
        load(folders[0], draft="mtp")
