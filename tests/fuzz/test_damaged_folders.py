"""Broken model folders: an MLXLMError that names the file and the trouble, never a crash, a hang or wrong logits."""

import json
import os
import random
import struct
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

from mlxlm.errors import ConfigError, MLXLMError, SourceError, UnknownModelType, WeightError
from mlxlm.load import load_model


@pytest.fixture
def folder(tmp_path):
    return tiny.checkpoint(tmp_path / "model")


def config(folder, **changes):
    """Rewrites config.json: a value of ... takes the key away."""
    settings = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))


def weights(folder):
    return dict(mx.load(str(folder / "model.safetensors")))


def save(folder, tensors, name="model.safetensors"):
    mx.eval(list(tensors.values()))
    (folder / "model.safetensors").unlink(missing_ok=True)
    mx.save_safetensors(str(folder / name), tensors, {"format": "pt"})


def refused(folder, kind, *words):
    with pytest.raises(kind) as e:
        load_model(folder)
    message = str(e.value)
    assert all(word in message for word in words), message
    return message


def test_the_checkpoint_loads_before_it_is_broken(folder):
    assert load_model(folder)(mx.array([[3, 4]])).shape == (1, 2, 259)


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, SourceError, "config.json", "missing")


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", '{"a": 1,}', "\x00\x01", "[1, 2]", "null", "[" * 100_000, "1" * 10_000]
)
def test_a_config_that_is_not_an_object(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, ConfigError, "config.json")


def test_a_config_that_is_not_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x80{}")
    refused(folder, ConfigError, "UTF-8")


def test_an_unknown_type_names_close_ones(folder):
    config(folder, model_type="lama")
    refused(folder, UnknownModelType, "'lama'", "llama")


@pytest.mark.parametrize("value", [..., None, 3, ["llama"], ""])
def test_a_type_that_is_none(folder, value):
    config(folder, model_type=value)
    refused(folder, MLXLMError, "model_type")


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_field_is_named(folder, field):
    config(folder, **{field: ...})
    refused(folder, ConfigError, field, "missing")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.5),
        ("hidden_size", True),
        ("hidden_size", [64]),
        ("hidden_size", -64),
        ("hidden_size", 0),
        ("hidden_size", 10**30),
        ("num_hidden_layers", 10**9),
        ("vocab_size", -1),
        ("num_attention_heads", -4),
        ("num_attention_heads", 5),
        ("num_key_value_heads", 3),
        ("head_dim", -16),
        ("head_dim", 15),
        ("rms_norm_eps", "small"),
        ("rope_theta", -1.0),
        ("rope_theta", "big"),
        ("hidden_act", "swishh"),
        ("hidden_act", 3),
        ("rope_scaling", 4),
        ("rope_scaling", {"type": "spiral"}),
        ("rope_scaling", {"type": "linear"}),
        ("rope_scaling", {"type": "linear", "factor": "x"}),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_scaling", {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
        ("tie_word_embeddings", "no"),
        ("sliding_window", "wide"),
        ("layer_types", ["full_attention"]),
        ("layer_types", ["full_attention", "round"]),
        ("max_position_embeddings", 0),
        ("quantization", 4),
        ("quantization", {"quant_method": "gptq", "bits": 4}),
    ],
)
def test_a_wrong_value_names_its_field(folder, field, value):
    config(folder, **{field: value})
    refused(folder, MLXLMError, "config.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attn_logit_softcapping", 50.0),
        ("embedding_multiplier", 12.0),
        ("qk_norm", True),
        ("partial_rotary_factors", 0.5),
    ],
)
def test_a_field_that_would_change_the_numbers_is_never_ignored(folder, field, value):
    config(folder, **{field: value})
    refused(folder, ConfigError, field)


def test_an_unknown_field_that_says_nothing_of_the_numbers_is_told(folder):
    config(folder, flavour="vanilla")
    with pytest.warns(UserWarning, match="flavour"):
        load_model(folder)


def test_no_weights_and_pickles(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, SourceError, "no weights")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    refused(folder, SourceError, "pickle")


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, 2000, -1, -1000])
def test_a_file_cut_short(folder, cut):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:cut])
    refused(folder, WeightError, "model.safetensors")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_header_length_that_lies(folder, length):
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refused(folder, WeightError, "model.safetensors")


def rewrite_header(folder, change):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**12, 10**12]},
        {"shape": [-1, 4]},
        {"shape": "4"},
        {"shape": [1.5]},
        {"shape": [True]},
        {"dtype": "F31"},
        {"dtype": None},
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [0]},
        {"data_offsets": ["a", "b"]},
        {"dtype": ["F32"]},
    ],
)
def test_an_entry_that_lies(folder, change):
    rewrite_header(folder, lambda header: header["lm_head.weight"].update(change))
    refused(folder, WeightError, "lm_head.weight")


def test_random_bytes_never_crash(folder):
    file = folder / "model.safetensors"
    data, generator = file.read_bytes(), random.Random(5)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 6)):
            broken[generator.randrange(0, 2600)] = generator.randrange(256)
        file.write_bytes(broken)
        try:
            load_model(folder)
        except MLXLMError:
            continue


def test_missing_extra_and_misshapen_tensors_are_listed_together(folder):
    tensors = weights(folder)
    del tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.extra.weight"] = mx.zeros((3,))
    tensors["model.norm.weight"] = mx.zeros((65,))
    save(folder, tensors)
    message = refused(
        folder,
        WeightError,
        "missing: model.layers.*.mlp.up_proj.weight",
        "layers 0-1",
        "unexpected",
        "extra",
        "misshapen: model.norm.weight (65,), expected (64,)",
    )
    assert len(message.splitlines()) == 4


def test_at_most_twenty_lines_are_listed(folder):
    tensors = weights(folder)
    save(folder, {**tensors, **{f"thing{i}.weight": mx.zeros((1,)) for i in range(50)}})
    message = refused(folder, WeightError, "30 more")
    assert len(message.splitlines()) == 22


def test_layers_that_the_config_does_not_know_are_not_dropped(folder):
    config(folder, num_hidden_layers=1)
    refused(folder, WeightError, "unexpected", "layers 1")


def index(folder, names):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/../../b.safetensors", "", "x\0y"])
def test_an_index_that_leads_out_of_the_folder(folder, name):
    index(folder, {"lm_head.weight": name})
    refused(folder, WeightError, "outside")


@pytest.mark.parametrize("names", [3, [], {"a": 1}, None])
def test_an_index_that_is_none(folder, names):
    index(folder, names)
    refused(folder, WeightError, "weight_map")


def test_an_index_of_files_that_are_not_there(folder):
    index(folder, {"lm_head.weight": "model-00001-of-00002.safetensors"})
    assert load_model(folder) is not None  # a stale index beside whole weights isn't believed
    (folder / "model.safetensors").unlink()
    refused(folder, SourceError, "model-00001-of-00002.safetensors")


def test_a_shard_that_is_missing_is_named(folder):
    tensors = weights(folder)
    first = dict(list(tensors.items())[:5])
    save(folder, first, "model-00001-of-00002.safetensors")
    index(folder, {n: f"model-0000{1 if n in first else 2}-of-00002.safetensors" for n in tensors})
    refused(folder, WeightError, "missing", "model-00002-of-00002.safetensors")


def test_a_tensor_in_two_files(folder):
    mx.save_safetensors(str(folder / "model-extra.safetensors"), {"model.norm.weight": mx.ones((64,))})
    refused(folder, WeightError, "two files", "model.norm.weight")


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    (folder / "config.json").chmod(0)
    if os.access(folder / "config.json", os.R_OK):  # root reads everything: refuse in its place
        real = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda p: _denied(p) if p.name == "config.json" else real(p))
    refused(folder, SourceError, "can't be read")


def _denied(path):
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 33, "bits": 4},
        {"group_size": 32, "bits": 7},
        {"group_size": "x", "bits": 4},
        {"group_size": 32, "bits": 4, "mode": "odd"},
        {"group_size": 64, "bits": 4},
    ],
)
def test_quantization_that_does_not_fit_its_tensors(folder, settings):
    tensors = weights(folder)
    name = "model.layers.0.mlp.up_proj"
    w, s, b = mx.quantize(tensors[f"{name}.weight"], group_size=32, bits=4)
    save(folder, {**tensors, f"{name}.weight": w, f"{name}.scales": s, f"{name}.biases": b})
    config(folder, quantization=settings)
    refused(folder, MLXLMError)


def test_quantization_of_one_layer_alone(folder):
    tensors, name = weights(folder), "model.layers.0.mlp.up_proj"
    w, s, b = mx.quantize(tensors[f"{name}.weight"], group_size=32, bits=4)
    exact = mx.dequantize(w, s, b, group_size=32, bits=4)
    save(folder, {**tensors, f"{name}.weight": exact})
    expected = load_model(folder)(mx.array([[5, 6, 7]]))
    save(folder, {**tensors, f"{name}.weight": w, f"{name}.scales": s, f"{name}.biases": b})
    config(folder, quantization={"group_size": 64, "bits": 8, name: {"group_size": 32, "bits": 4}})
    found = load_model(folder)(mx.array([[5, 6, 7]]))
    assert np.abs(np.array(found - expected)).max() < 1e-4
