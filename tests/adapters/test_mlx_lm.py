"""mlx-lm's adapters against mlx-lm itself; fusing and training, and what training saves, in both."""

import json
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny
import tiny_models
from mlx.utils import tree_flatten

from mlxlm import adapters, load, load_model
from mlxlm.adapters.train import Plan, train
from mlxlm.convert import Recipe, Setting, convert
from mlxlm.errors import MLXLMError

from .made import peft

IDS = np.array([[5, 9, 40, 3, 77, 12, 8, 61, 20, 33]])
KINDS = {
    "lora": ("llama-llama3-rope-biases-tied", "lora", None),
    "dora": ("llama-llama3-rope-biases-tied", "dora", ["self_attn.q_proj", "mlp.down_proj"]),
    "experts": ("qwen3_moe-normalised", "lora", ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.down_proj"]),
    "embedding": ("llama-llama3-rope-biases-tied", "lora", ["model.embed_tokens"]),
    "embedding-dora": ("llama-llama3-rope-biases-tied", "dora", ["model.embed_tokens"]),
    "conv": ("lfm2-convolutions", "lora", None),
}  # fmt: skip


def logits(model):
    return np.array(model(mx.array(IDS)).astype(mx.float32))


def close(a, b, bound=1e-4):
    return np.abs(a - b).max() <= bound * (b.max() - b.min())


def made(theirs, folder, kind, keys):
    """An adapter on mlx-lm's own model, random where it would be zero, saved as its trainer does."""
    from mlx_lm.tuner.utils import linear_to_lora_layers

    parameters = {"rank": 4, "scale": 1.5, "dropout": 0.0, **({"keys": keys} if keys else {})}
    theirs.freeze()
    linear_to_lora_layers(theirs, 2, parameters, use_dora=kind == "dora")
    random = {name: mx.random.normal(w.shape) * (1 if name.endswith(".m") else 0.3) + (3 if name.endswith(".m") else 0)
              for name, w in tree_flatten(theirs.trainable_parameters())}
    theirs.load_weights(list(random.items()), strict=False)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), random)
    config = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def as_theirs(name):
    from mlx_lm.utils import load_model as loaded
    from parity import reference

    old = tiny_models.folder(name).parent / f"{name}-adapted"
    if not old.exists():
        reference.save_old_config(tiny_models.folder(name), old)
    return loaded(old)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_mlx_lm_makes_of_it(kind, tmp_path):
    mx.random.seed(1)
    name, form, keys = KINDS[kind]
    theirs = as_theirs(name)
    folder = made(theirs, tmp_path / "a", form, keys)
    theirs.eval()
    expected = logits(theirs)
    model = load_model(tiny_models.folder(name))
    plain = logits(model)
    assert not close(plain, expected, 1e-2)
    adapters.attach(model, folder)
    assert close(logits(model), expected)
    adapters.fuse(model)
    assert close(logits(model), expected)


def test_fusing_is_w_plus_scale_times_ba_to_the_last_bit(tmp_path):
    source = tiny.checkpoint(tmp_path / "m")
    peft(source, tmp_path / "a", lambda name: name.endswith("q_proj.weight"))
    before = load_model(source)
    model, _ = load(source, adapter_path=tmp_path / "a")
    factors = mx.load(str(tmp_path / "a" / "adapter_model.safetensors"))
    at = "base_model.model.model.layers.1.self_attn.q_proj"
    change = 3.0 * (factors[f"{at}.lora_B.weight"] @ factors[f"{at}.lora_A.weight"])
    adapters.fuse(model)
    assert mx.array_equal(model.layers[1].self_attn.q_proj.weight, before.layers[1].self_attn.q_proj.weight + change)


@pytest.mark.parametrize("quantized", [False, True])
def test_the_command_fuses_what_load_attaches(tmp_path, mlxlm, quantized):
    from mlx_lm.utils import load_model as theirs

    source = tiny.checkpoint(tmp_path / "m")
    folder = peft(source, tmp_path / "a", lambda name: name.endswith(("q_proj.weight", "up_proj.weight")))
    if quantized:
        assert mlxlm("convert", source, "-o", tmp_path / "q", "-q", "--q-bits", "8", "--q-group-size", "32")[0] == 0
        source = tmp_path / "q"
    expected = logits(load(source, adapter_path={folder: 0.5})[0])
    status, out, err = mlxlm("fuse", source, "--adapter-path", f"{folder}=0.5", "--save-path", tmp_path / "f", "--json")
    assert status == 0, err
    assert json.loads(out)["folder"] == str(tmp_path / "f")
    fused = load_model(tmp_path / "f")
    assert ("scales" in fused.layers[0].self_attn.q_proj) == quantized
    assert close(logits(fused), expected, 0.05 if quantized else 1e-4)
    assert close(logits(theirs(tmp_path / "f")[0]), logits(fused), 2e-4)
    if quantized:
        assert mlxlm("fuse", source, "--adapter-path", f"{folder}=0.5", "--save-path", tmp_path / "d",
                     "--dequantize")[0] == 0
        assert close(logits(load_model(tmp_path / "d")), expected)


TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_training_lowers_the_loss_and_both_load_the_adapter(kind, tmp_path):
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model as theirs

    source = tiny.checkpoint(tmp_path / "m")
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": TEXT}, {"prompt": "Who jumps?", "completion": TEXT},
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": TEXT}]}, {"text": TEXT}]
    for name in ("train", "valid"):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    model, tokenizer = load(source)
    plain = logits(model)
    done = train(model, tokenizer, data, tmp_path / "a",
                 Plan(kind, layers=2, steps=30, batch=2, rate=5e-3, rank=4, scale=2.0))
    assert done.losses[-1][1] < done.losses[0][1] and done.validation[-1][1] < 0.8 * done.validation[0][1]
    ours = logits(load(source, adapter_path=tmp_path / "a")[0])
    assert not close(ours, plain, 0.05)
    other = load_adapters(theirs(source)[0], str(tmp_path / "a"))
    other.eval()
    assert close(ours, logits(other), 2e-4)


class Letters:
    """A tokenizer of few tokens."""

    eos_token_id = 2

    def encode(self, text):
        return [3 + ord(letter) % 60 for letter in text]


@pytest.mark.parametrize("quantized", [False, True])
def test_training_reaches_the_experts_and_both_load_them(quantized, tmp_path):
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model as theirs
    from parity import reference

    source = reference.save_old_config(tiny_models.folder("qwen3_moe-normalised"), tmp_path / "old")
    if quantized:
        convert(source, tmp_path / "q", recipe=Recipe(Setting(8, 32), "uniform", fit=False))
        source = tmp_path / "q"
    (tmp_path / "d.jsonl").write_text("\n".join([json.dumps({"text": TEXT * 2})] * 4))
    model = load_model(source)
    plain, text = logits(model), mx.array([Letters().encode(TEXT * 2)])
    before = mx.mean(nn.losses.cross_entropy(model(text[:, :-1]), text[:, 1:])).item()
    done = train(model, Letters(), tmp_path / "d.jsonl", tmp_path / "a",
                 Plan(layers=-1, steps=12, batch=2, rate=5e-3, rank=4, scale=2.0))
    assert done.losses[-1][1] < 0.9 * before
    factors = mx.load(str(tmp_path / "a" / "adapters.safetensors"))
    experts = [name for name in factors if "switch_mlp.down_proj.lora_b" in name]
    assert experts and all(mx.abs(factors[name]).max() > 0 for name in experts)
    ours = load_model(source)
    adapters.attach(ours, tmp_path / "a")
    model.eval()
    assert not close(logits(ours), plain, 0.05) and close(logits(ours), logits(model), 2e-4)
    other = load_adapters(theirs(source)[0], str(tmp_path / "a"))
    other.eval()
    assert close(logits(ours), logits(other), 5e-4)


@pytest.mark.parametrize("kind", [*tiny_models.KINDS, "phimoe-plain"])
def test_gradients_reach_the_embedding_through_every_kind_of_layer(kind):
    """Past routers too, whose picks have none; against a difference of two losses."""
    model = load_model(tiny_models.folder(tiny_models.KINDS.get(kind, kind)), dtype="float32")
    tokens, embedding = mx.array(IDS), next(m for _, m in model.named_modules() if isinstance(m, nn.Embedding))
    way = mx.random.normal(embedding.weight.shape, key=mx.random.key(3)) * 1e-2

    def loss(step):
        kept = embedding.weight
        embedding.weight = kept + step * way
        out = nn.losses.cross_entropy(model(tokens[:, :-1]).astype(mx.float32), tokens[:, 1:]).mean()
        embedding.weight = kept
        return out

    slope, step = mx.grad(loss)(mx.array(0.0)).item(), 2e-3
    difference = (loss(mx.array(step)) - loss(mx.array(-step))).item() / (2 * step)
    assert abs(slope - difference) <= 0.03 * abs(difference) + 2e-3, (slope, difference)


def test_the_command_trains(tmp_path, mlxlm):
    source = tiny.checkpoint(tmp_path / "m")
    (tmp_path / "d.jsonl").write_text("\n".join([json.dumps({"text": TEXT})] * 4))
    status, out, err = mlxlm("lora", source, "--data", tmp_path / "d.jsonl", "--adapter-path", tmp_path / "a",
                             "--iters", "4", "--batch-size", "2", "--learning-rate", "1e-2")
    assert status == 0, err
    first, last = map(float, re.search(r"loss ([\d.]+) to ([\d.]+)", out).groups())
    assert first > 0 and last > 0 and (tmp_path / "a" / "adapters.safetensors").exists()
    assert mlxlm("generate", source, TEXT, "--adapter-path", tmp_path / "a", "-m", "3")[0] == 0
    status, out, _ = mlxlm("lora", source, "--data", tmp_path / "d.jsonl", "--adapter-path", tmp_path / "b",
                           "--iters", "2", "--batch-size", "2", "--json")
    assert status == 0 and json.loads(out.splitlines()[-1])["losses"]


BAD = {
    "json": ('{"text": 1', r"d\.jsonl:1: the line isn't JSON"),
    "shape": ('{"text": "a"}\n{"words": "b"}', r"d\.jsonl:2: this isn't an example"),
    "empty": ("", "empty"),
    "few": ('{"text": "a"}', "fewer examples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_datasets_name_file_and_line(name, tmp_path):
    content, words = BAD[name]
    (tmp_path / "d.jsonl").write_text(content)
    model, tokenizer = load(tiny.checkpoint(tmp_path / "m"))
    with pytest.raises(MLXLMError, match=words):
        train(model, tokenizer, tmp_path / "d.jsonl", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_bad_adapters_of_mlx_lm(tmp_path):
    model = load_model(tiny.checkpoint(tmp_path / "m"))
    folder = tmp_path / "a"
    folder.mkdir()
    at = "model.layers.0.self_attn.q_proj"
    good = {f"{at}.lora_a": mx.zeros((64, 4)), f"{at}.lora_b": mx.zeros((4, 64))}
    for config, tensors, words in (
        ({"lora_parameters": {"rank": 4, "alpha": 8}}, good, "no scale.*alpha / rank"),
        ({"fine_tune_type": "ia3"}, good, "fine_tune_type"),
        ({"lora_parameters": {"scale": 1.0}}, {**good, "x": mx.zeros((1,))}, "adapters.safetensors: x"),
        ({"lora_parameters": {"scale": 1.0}}, {f"{at}.lora_a": mx.zeros((64, 4))}, "lora_b"),
        ({"lora_parameters": {"scale": 1.0}}, {**good, f"{at}.lora_b": mx.zeros((4, 9))}, "another shape"),
        ({"fine_tune_type": "dora", "lora_parameters": {"scale": 1.0}}, good, r"q_proj\.m"),
        ({"fine_tune_type": "full"}, {"model.norm.bias": mx.zeros((64,))}, "model.norm.bias.*no such tensor"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config))
        mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
        with pytest.raises(MLXLMError, match=f"(?s){words}"):
            adapters.attach(model, folder)
