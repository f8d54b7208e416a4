"""What is saved loads again to the very same logits, here and in mlx-lm; what isn't finished doesn't look it."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import transformers
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm

from mlxlm import kernels
from mlxlm.checkpoint import save as saving
from mlxlm.checkpoint.safetensors import Folder
from mlxlm.checkpoint.save import save_model
from mlxlm.errors import SourceError, UsageError
from mlxlm.load import load_model
from mlxlm.weights import apply

from . import reference
from .cases import CASES
from .test_parity import BOUND, assert_close, case_of, run

FIRST = {c.model_type: c.name for c in reversed(CASES)}.values()  # one of each type


def quantized(model, bits=4, skip=()):
    """The model with every layer in ``bits`` that can be, as it would be after loading."""
    def fits(path, module):
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0 and not path.endswith(tuple(skip))

    nn.quantize(model, 32, bits, class_predicate=fits)
    kernels.install(model)
    return model


@pytest.fixture(params=[c.name for c in CASES])
def row(request):
    return case_of(request.param)


def source(row, tmp_path):
    """The case's checkpoint with a config in transformers 4's words, which mlx-lm reads."""
    reference.save(row[1], tmp_path / "model")
    return reference.save_old_config(tmp_path / "model", tmp_path / "old")


@pytest.mark.parametrize("row, bits", [*((c.name, None) for c in CASES), *((n, 4) for n in FIRST)], indirect=["row"])
def test_saved_and_loaded_again(row, bits, tmp_path):
    case, _, ids, _ = row
    folder = source(row, tmp_path)
    model = load_model(folder)
    if bits:
        quantized(model)
    expected = run(model, ids)
    save_model(model, tmp_path / "saved", config=Folder(folder).config)
    again = load_model(tmp_path / "saved")
    assert Folder(tmp_path / "saved").is_mlx
    np.testing.assert_array_equal(run(again, ids), expected)
    if not case.mlx_lm_wrong:
        theirs, _ = mlx_lm.load_model(tmp_path / "saved")
        assert_close(np.array(theirs(mx.array(ids))), expected, 2 * BOUND)


def test_rules_leave_right_names_as_they_are(row, tmp_path):
    model = load_model(reference.save(row[1], tmp_path / "model"))
    weights = dict(tree_flatten(model.parameters()))
    again = apply(model.architecture.names, weights, model.config)
    assert again.keys() == weights.keys()
    assert all(mx.array_equal(again[name], w) for name, w in weights.items())


def test_configs_in_the_newer_words_are_saved_in_both(row, tmp_path):
    _, model, ids, _ = row
    folder = reference.save(model, tmp_path / "model")
    loaded = load_model(folder)
    save_model(loaded, tmp_path / "saved", config=Folder(folder).config)
    np.testing.assert_array_equal(run(load_model(tmp_path / "saved"), ids), run(loaded, ids))


@pytest.mark.parametrize("name", ["llama-yarn-truncate-off", "gemma3_text-linear-rope-softcap", "olmo3-window-yarn"])
def test_transformers_reads_the_rope_of_what_is_saved(name, tmp_path):
    folder = reference.save(case_of(name)[1], tmp_path / "model")
    save_model(load_model(folder), tmp_path / "saved", config=Folder(folder).config)
    plain, saved = (transformers.AutoConfig.from_pretrained(at).rope_parameters for at in (folder, tmp_path / "saved"))
    assert plain == without_type(saved)


def without_type(settings):
    """Rope settings without the older word for rope_type, which transformers leaves in."""
    return {k: without_type(v) if isinstance(v, dict) else v for k, v in settings.items() if k != "type"}


def llama(tmp_path, name="phi3-plain-tied"):
    _, model, ids, _ = case_of(name)
    folder = reference.save(model, tmp_path / "model")
    return load_model(folder), Folder(folder).config, ids


def test_parts_of_different_precision_stay_apart(tmp_path):
    model, config, ids = llama(tmp_path)
    quantized(quantized(model, 8, skip=("q_proj", "up_proj")), 4)
    expected = run(model, ids)
    save_model(model, tmp_path / "saved", config=config)
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert written["quantization"] == written["quantization_config"]
    assert {s["bits"] for s in written["quantization"].values() if isinstance(s, dict)} == {4}
    assert "model.layers.0.self_attn.q_proj.weight" in Folder(tmp_path / "saved").load_weights()
    np.testing.assert_array_equal(run(load_model(tmp_path / "saved"), ids), expected)


def test_fused_modules_have_settings_of_their_own(tmp_path):
    model, config, ids = llama(tmp_path)
    quantized(quantized(model, 8, skip=("q_proj", "k_proj", "v_proj")), 4)
    expected = run(model, ids)
    save_model(model, tmp_path / "saved", config=config)
    written = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization"]
    assert written["model.layers.3.self_attn.qkv_proj"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    np.testing.assert_array_equal(run(load_model(tmp_path / "saved"), ids), expected)
    theirs, _ = mlx_lm.load_model(tmp_path / "saved")
    assert_close(np.array(theirs(mx.array(ids))), expected, 2 * BOUND)


def test_a_new_quantization_takes_the_place_of_the_config_s(tmp_path):
    model, config, _ = llama(tmp_path)
    save_model(model, tmp_path / "plain", config={**config, "quantization": {"bits": 4, "group_size": 64}})
    assert "quantization" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_shards_and_their_index(tmp_path):
    model, config, ids = llama(tmp_path)
    save_model(quantized(model), tmp_path / "saved", config=config, max_shard_bytes=30_000)
    files = sorted(p.name for p in (tmp_path / "saved").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(w.nbytes for _, w in tree_flatten(model.parameters()))
    assert index["metadata"]["total_parameters"] == mlx_lm.get_total_parameters(model)
    assert all((tmp_path / "saved" / name).stat().st_size < 40_000 for name in files)
    np.testing.assert_array_equal(run(load_model(tmp_path / "saved"), ids), run(model, ids))


def test_the_small_files_come_along(tmp_path):
    model, config, _ = llama(tmp_path)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "model" / "code.py").write_text("raise SystemExit")
    save_model(model, tmp_path / "saved", config=config, source=tmp_path / "model")
    names = {p.name for p in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
                     "chat_template.jinja", "generation_config.json"}


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    model, config, _ = llama(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_json", full)
    with pytest.raises(SourceError, match="No space left"):
        save_model(model, tmp_path / "out" / "saved", config=config)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    model, config, _ = llama(tmp_path)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "write_json", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tmp_path / "out" / "saved", config=config)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    model, config, _ = llama(tmp_path)
    with pytest.raises(UsageError, match="something already"):
        save_model(model, tmp_path / "model", config=config)
    (tmp_path / "empty").mkdir()
    save_model(model, tmp_path / "empty", config=config)
    assert (tmp_path / "empty" / "config.json").exists()


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    model, config, _ = llama(tmp_path)
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(SourceError, match="no room"):
        save_model(model, tmp_path / "saved", config=config)
    assert not (tmp_path / "saved").exists()
