"""PEFT's adapters: every kind of module against transformers on a checkpoint that was merged by hand."""

import json

import mlx.core as mx
import numpy as np
import pytest
import tiny_models

from mlxlm import adapters, load_model
from mlxlm.errors import MLXLMError
from mlxlm.generate.fingerprint import fingerprint

from .made import peft, transformers_logits

IDS = np.array([[5, 9, 40, 3, 77, 12, 8, 61, 20, 33]])


def logits(model):
    return np.array(model(mx.array(IDS)).astype(mx.float32))


def close(a, b, bound=1e-4):
    return np.abs(a - b).max() <= bound * (b.max() - b.min())


def linear(*ends):
    return lambda name: name.endswith(tuple(f"{end}.weight" for end in ends))


ATTENTION = linear("q_proj", "k_proj", "v_proj", "o_proj")
CASES = {
    "linear": ("llama-llama3-rope-biases-tied", ATTENTION, {}),
    "rslora": ("llama-llama3-rope-biases-tied", linear("down_proj", "q_proj"), {"use_rslora": True}),
    "patterns": ("llama-llama3-rope-biases-tied", ATTENTION,
                 {"rank_pattern": {"layers.1.self_attn.q_proj": 7}, "alpha_pattern": {"v_proj": 20}}),
    "dora": ("llama-llama3-rope-biases-tied", ATTENTION, {"dora": True}),
    "fused": ("phi3", linear("qkv_proj", "gate_up_proj", "o_proj"), {}),
    "fused-dora": ("phi3", linear("qkv_proj", "gate_up_proj"), {"dora": True}),
    "turned": ("gpt2", linear("c_attn", "c_proj", "c_fc"), {"turned": True}),
    "by-head": ("gpt_neox", linear("query_key_value", "dense_h_to_4h"), {}),
    "experts": ("qwen3_moe-normalised", lambda name: ".experts." in name or name.endswith("q_proj.weight"), {}),
    "mamba": ("mamba2-groups-biases-tied", linear("in_proj", "out_proj"), {}),
    "delta": ("qwen3_next-delta-moe", linear("in_proj_qkvz", "out_proj", "shared_expert.up_proj"), {}),
}  # fmt: skip


def case(name):
    from parity.cases import CASES as all_cases

    return tiny_models.folder(next(c.name for c in all_cases if c.name == name or c.model_type == name))


@pytest.mark.parametrize("name", CASES)
def test_attached_and_fused_are_the_merged_checkpoint(name, tmp_path):
    kind, fits, settings = CASES[name]
    source = case(kind)
    folder = peft(source, tmp_path / "a", fits, merged=tmp_path / "merged", **settings)
    expected = transformers_logits(tmp_path / "merged", IDS)
    model = load_model(source)
    before = logits(model)
    assert not close(before, expected, 1e-2)
    adapters.attach(model, folder)
    assert close(logits(model), expected)
    adapters.detach(model)
    assert (logits(model) == before).all()
    adapters.attach(model, folder)
    assert adapters.fuse(model) > 0 and adapters.attached(model) == {}
    assert close(logits(model), expected)


def test_several_at_once_each_with_its_strength(tmp_path):
    source = case("llama-llama3-rope-biases-tied")
    first = peft(source, tmp_path / "one", ATTENTION, merged=tmp_path / "m1")
    second = peft(tmp_path / "m1", tmp_path / "two", linear("v_proj", "up_proj"), seed=1, merged=tmp_path / "m2")
    model = load_model(source)
    plain = logits(model)
    assert adapters.attach_all(model, [first, second]) == ["one", "two"]
    assert close(logits(model), transformers_logits(tmp_path / "m2", IDS))
    whole = fingerprint(model)
    adapters.set_strength(model, "two", 0.0)
    assert fingerprint(model) != whole
    assert close(logits(model), transformers_logits(tmp_path / "m1", IDS))
    adapters.detach(model, "two")
    assert adapters.attached(model) == {"one": 1.0}
    adapters.detach(model, "one")
    assert (logits(model) == plain).all()
    half = peft(source, tmp_path / "half", ATTENTION, merged=tmp_path / "m3", lora_alpha=6)
    adapters.attach_all(model, {first: 0.5})
    once = logits(model)
    adapters.detach(model)
    adapters.attach(model, half)
    assert close(logits(model), once)


def test_whole_tensors_take_the_place_of_the_models(tmp_path):
    source = case("llama-llama3-rope-biases-tied")
    folder = peft(source, tmp_path / "a", ATTENTION, modules_to_save=["norm"])
    file = str(folder / "adapter_model.safetensors")
    tensors = dict(mx.load(file))
    weight = mx.random.uniform(0.5, 1.5, (64,))
    mx.save_safetensors(file, {**tensors, "base_model.model.model.norm.weight": weight})
    model = load_model(source)
    before = model.model.norm.weight
    adapters.attach(model, folder)
    assert mx.array_equal(model.model.norm.weight, weight)
    adapters.detach(model)
    assert mx.array_equal(model.model.norm.weight, before)


def test_a_quantized_model_keeps_its_bits_under_an_adapter(tmp_path):
    from mlxlm.convert import Recipe, Setting, convert

    source = case("llama-llama3-rope-biases-tied")
    convert(source, tmp_path / "q", recipe=Recipe(Setting(8, 32), "uniform"))
    convert(tmp_path / "q", tmp_path / "plain", dequantized=True)
    folder = peft(source, tmp_path / "a", ATTENTION)
    model, plain = load_model(tmp_path / "q"), load_model(tmp_path / "plain")
    for each in (model, plain):
        adapters.attach(each, folder)
    assert close(logits(model), logits(plain))
    adapters.fuse(plain)
    kept = load_model(tmp_path / "q")
    adapters.attach(kept, folder)
    adapters.fuse(kept, dequantize=True)
    assert close(logits(kept), logits(plain)) and "scales" not in kept.layers[0].self_attn.q_proj
    adapters.fuse(model)
    assert model.layers[0].self_attn.q_proj.bits == 8
    assert close(logits(model), logits(plain), 0.1) and not close(logits(model), logits(plain))


@pytest.mark.parametrize("arguments", [{"strength": float("nan")}, {"strength": "1"}, {"name": "a.b"}])
def test_names_and_strengths_that_cannot_be(arguments, tmp_path):
    folder = peft(case("llama-llama3-rope-biases-tied"), tmp_path / "a", ATTENTION)
    with pytest.raises(MLXLMError):
        adapters.attach(tiny_models.model("attention"), folder, **arguments)
    with pytest.raises(MLXLMError, match="no adapter of this name"):
        adapters.detach(tiny_models.model("attention"), "nothing")


def damage(folder, **changes):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))


def tensors(folder, change):
    file = str(folder / "adapter_model.safetensors")
    mx.save_safetensors(file, change(dict(mx.load(file))))


Q = "base_model.model.model.layers.0.self_attn.q_proj"
BAD = {
    "kind": (lambda f: damage(f, peft_type="IA3"), "LORA"),
    "rank": (lambda f: damage(f, r=5), "self_attn.._proj: the rank"),
    "rank-zero": (lambda f: damage(f, r=0), "at least 1"),
    "rank-text": (lambda f: damage(f, r="4"), "r must be a number"),
    "alpha": (lambda f: damage(f, lora_alpha=float("nan")), "lora_alpha"),
    "pattern": (lambda f: damage(f, rank_pattern={"(a+)+": 3}), "pattern"),
    "base": (lambda f: damage(f, init_lora_weights="pissa_niter_4"), "base weights"),
    "experts": (lambda f: damage(f, target_parameters=["x"]), "target_parameters"),
    "no-dora": (lambda f: damage(f, use_dora=True), "lora_magnitude_vector"),
    "one-factor": (lambda f: tensors(f, lambda t: {k: w for k, w in t.items() if k != f"{Q}.lora_B.weight"}),
                   "q_proj.lora_B"),
    "shape": (lambda f: tensors(f, lambda t: {**t, f"{Q}.lora_B.weight": mx.zeros((63, 4))}), "q_proj.*another shape"),
    "integers": (lambda f: tensors(f, lambda t: {**t, f"{Q}.lora_B.weight": mx.zeros((64, 4), mx.int32)}), "floating"),
    "factors": (lambda f: tensors(f, lambda t: {**t, f"{Q}.lora_B.weight": mx.zeros((64, 3))}), "don't fit"),
    "no-module": (lambda f: tensors(f, lambda t: {k.replace("layers.1", "layers.9"): w for k, w in t.items()}),
                  r"layers\.9.*no such module"),
    "strange": (lambda f: tensors(f, lambda t: {**t, f"{Q}.lora_C.weight": mx.zeros((4,))}), "lora_C"),
    "whole": (lambda f: tensors(f, lambda t: {**t, "base_model.model.model.nothing.weight": mx.zeros((4,))}),
              "model.nothing.weight.*no such"),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors")
                                                                    .read_bytes()[:-9]), "beyond the file's end"),
    "none": (lambda f: (f / "adapter_model.safetensors").unlink(), "missing"),
    "pickle": (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "pickle"),
    "no-config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json"),
    "json": (lambda f: (f / "adapter_config.json").write_text("{"), "JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_damaged_adapters_name_what_is_wrong_and_change_nothing(name, tmp_path):
    source = case("llama-llama3-rope-biases-tied")
    folder = peft(source, tmp_path / "a", ATTENTION)
    change, words = BAD[name]
    change(folder)
    model = tiny_models.model("attention")
    before = logits(model)
    with pytest.raises(MLXLMError, match=f"(?s){words}"):
        adapters.attach(model, folder)
    assert adapters.attached(model) == {} and (logits(model) == before).all()
