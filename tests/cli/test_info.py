"""`mlxlm info`: its counts against the model that is really loaded and the cache that really grows."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import pytest
import tiny
from mlx.utils import tree_flatten

from mlxlm import ModelConfiguration, load_model
from mlxlm.info import describe


def test_the_counts_are_those_of_the_loaded_model(model):
    info, loaded = describe(model, context=300), load_model(model)
    arrays = [array for _, array in tree_flatten(loaded.parameters())]
    assert info.parameters == info.active_parameters == sum(a.size for a in arrays)
    assert info.weight_bytes == info.file_bytes == sum(a.nbytes for a in arrays)
    assert (info.model_type, info.support, info.dtype, info.bits_per_weight) == ("llama", "native", "float32", 32.0)
    # 2 layers x keys and values x 2 heads x 16 numbers x 4 bytes
    assert info.cache_bytes_per_token == 2 * 2 * 2 * 16 * 4 and info.cache_bytes == 300 * 512
    cache = loaded.make_cache()
    loaded(mx.zeros((1, 512), mx.int32), cache=cache)
    assert cache.nbytes == 512 * info.cache_bytes_per_token
    assert info.memory_needed == info.weight_bytes + info.cache_bytes and info.fits and info.problems == ()


def test_a_window_limits_the_cache(tmp_path):
    folder = tiny.checkpoint(tmp_path / "m", model_type="mistral", sliding_window=64)
    assert describe(folder, context=40).cache_bytes == 40 * 512
    assert describe(folder, context=400).cache_bytes == 64 * 512


@pytest.mark.parametrize("bits, group", [(4, 32), (8, 64)])
def test_a_quantized_model_is_counted_in_its_own_parameters(tmp_path, bits, group):
    folder = tiny.checkpoint(tmp_path / "m")
    plain, loaded = describe(folder), load_model(folder)
    nn.quantize(loaded, group, bits)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(loaded.parameters())), {"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization": {"group_size": group, "bits": bits}}))
    info = describe(folder)
    assert info.parameters == plain.parameters and info.problems == ()
    assert info.quantization == {"bits": bits, "group_size": group, "modules_with_their_own": 0}
    assert info.weight_bytes == info.file_bytes == sum(a.nbytes for _, a in tree_flatten(loaded.parameters()))
    assert bits < info.bits_per_weight < bits + 64 / group + 1


def test_the_context_defaults_to_what_the_model_has(model):
    assert describe(model).context == describe(model).max_context == 512


def test_experts_that_sleep_are_not_active(tmp_path):
    from transformers import Qwen3MoeConfig

    config = Qwen3MoeConfig(hidden_size=64, intermediate_size=128, moe_intermediate_size=32, num_hidden_layers=2,
                            num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8,
                            num_experts_per_tok=2, vocab_size=259, decoder_sparse_step=1).to_dict()
    tiny.tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_moe"}))
    info = describe(tmp_path)
    experts = 2 * 8 * 3 * 64 * 32
    assert info.parameters is not None and info.active_parameters == info.parameters - experts * 6 // 8
    assert any("no weights" in problem for problem in info.problems)


def test_what_is_wrong_is_told_beside_what_is_known(mlxlm, tmp_path):
    folder = tiny.checkpoint(tmp_path / "m", model_type="llamma")
    (folder / "tokenizer.json").unlink()
    done = mlxlm("info", folder)
    assert done.status == 0 and "llamma (not supported)" in done.out and "429 kB on disk" in done.out
    assert done.out.count("problem: ") == 2 and "tokenizer" in done.out and "Did you mean 'llama'" in done.out


@pytest.fixture
def small_snapshot(tmp_path, monkeypatch):
    """The hub's cache with all of a repository but its weights, and no hub to ask."""
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("a" * 40)
    tiny.checkpoint(snapshot)
    (snapshot / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 428_800}, "weight_map": {"model.norm.weight": "model.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_repository_is_described_without_its_weights(small_snapshot, mlxlm, model):
    info, whole = describe("someone/tiny"), describe(model)
    assert info.downloaded is False and info.problems == () and info.file_bytes == 428_800
    assert (info.parameters, info.weight_bytes, info.memory_needed) == \
        (whole.parameters, whole.weight_bytes, whole.memory_needed)
    assert "429 kB to download" in mlxlm("info", "someone/tiny").out


def test_json_says_the_same(mlxlm, model):
    facts = json.loads(mlxlm("info", model, "--json", "--context", 100).out)
    info = describe(model, context=100)
    assert facts["memory_needed"] == info.memory_needed and facts["fits"] is True
    assert facts["tokenizer"]["eos_tokens"] == ["<|im_end|>"] and facts["tokenizer"]["vocabulary"] == 259


def test_every_convention_says_where_it_comes_from(mlxlm, tmp_path):
    template = tiny.TEMPLATE + "{# <tool_call> {{ tool_call.name }} <think> </think> {{ tools }} enable_thinking #}"
    folder = tiny.checkpoint(tmp_path / "m", chat_template=template)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2], "stop_strings": ["STOP"]}')
    info = describe(folder)
    rows = {(what, value): origin for what, value, origin in info.conventions}
    assert rows["chat template", "default"] == "tokenizer_config.json"
    assert rows["tool calls", "json"] == "the chat template's markers"
    assert rows["reasoning", "'<think>' to '</think>'"] == "the chat template's markers"
    assert rows["ends at", "'<|endoftext|>'"] == "generation_config.json"
    assert rows["ends at", "'<|im_end|>'"] == "generation_config.json, the tokenizer"
    assert rows["stops at", "'STOP'"] == "generation_config.json"
    own = ModelConfiguration(directory=folder, tool_call_format="glm4", extra_eos_tokens=frozenset({"<|im_start|>"}))
    rows = {(what, value): origin for what, value, origin in describe(own).conventions}
    assert rows["tool calls", "glm4"] == rows["ends at", "'<|im_start|>'"] == "the configuration"
    assert "from generation_config.json" in mlxlm("info", folder).out


@pytest.mark.parametrize(("readme", "files", "said"), [
    ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model\n", [], "apache-2.0"),
    ("---\nlicense: other\nlicense_name: gemma\n---\n", [], "gemma"),
    ("# Model\nlicense: mit\n", ["LICENSE"], "see LICENSE"), (None, [], None)])
def test_the_license(tmp_path, readme, files, said):
    folder = tiny.checkpoint(tmp_path / "m")
    for name in files:
        (folder / name).write_text("All rights reserved.")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    assert describe(folder).license == said


def test_a_model_that_is_not_there(mlxlm, tmp_path):
    done = mlxlm("info", tmp_path / "nothing")
    assert done.status == 1 and done.out == "" and done.err.startswith("error: ")
