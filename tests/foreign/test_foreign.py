"""Checkpoints that other packages quantized: the logits of the weights they stand for, and errors by name."""

import json

import mlx.core as mx
import numpy as np
import packers
import pytest
import tiny
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from mlxlm import load_model
from mlxlm.convert import convert
from mlxlm.errors import ConfigError, MLXLMError, WeightError

TOKENS = mx.array([[1, 5, 9, 40, 3, 77, 12, 8]])
SIZES = dict(hidden_size=128, intermediate_size=256, head_dim=32)
RNG = np.random.default_rng(5)
ORDER = RNG.permutation(256)


def scheme(bits, **more):
    return {"quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", **more}}}}


def ordered(w):
    return packers.gptq(w, 4, 64, RNG.permutation(w.shape[1]))


FORMATS = {
    **{f"gptq-{b}-{g}": ({"quant_method": "gptq", "bits": b, "group_size": g},
                         lambda w, b=b, g=g: packers.gptq(w, b, g)) for b in (2, 3, 4, 8) for g in (32, 128)},
    "gptq-v2": ({"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2"},
                lambda w: packers.gptq(w, 4, 64, v2=True)),
    "gptq-whole-rows": ({"quant_method": "gptq", "bits": 4, "group_size": -1},
                        lambda w: packers.gptq(w, 4, w.shape[1])),
    "gptq-act-order": ({"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True}, ordered),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, lambda w: packers.awq(w, 4, 64)),
    "ct-4": (scheme(4), lambda w: packers.compressed(w, 4, 32)),
    "ct-4-asymmetric": (scheme(4, symmetric=False), lambda w: packers.compressed(w, 4, 128, False)),
    "ct-8": (scheme(8), lambda w: packers.compressed(w, 8, 64)),
    "ct-int8": (scheme(8, strategy="channel"), packers.whole_int8),
    "ct-float8": (scheme(8) | {"format": "float-quantized"}, lambda w: packers.float8(w, None, "weight_scale")),
    "fp8-blocks": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, lambda w: packers.float8(w, (128, 128))),
    "fp8-tensor": ({"quant_method": "fp8"}, lambda w: packers.float8(w, w.shape, "weight_scale")),
    "fp8-rows": ({"quant_method": "fp8"}, lambda w: packers.float8(w, None, "weight_scale")),
    "fp8-small-blocks": ({"quant_method": "fp8", "weight_block_size": [48, 80]}, lambda w: packers.float8(w, (48, 80))),
    "bnb-int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, packers.bnb_int8),
    "bnb-nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, packers.bnb_nf4),
    **{f"hqq-{b}-{g}": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": b, "group_size": g}}},
                        lambda w, b=b, g=g: packers.hqq(w, b, g))
       for b, g in [(1, 64), (2, 32), (3, 64), (4, 64), (4, 256), (5, 128), (6, 32), (8, 64), (4, 16)]},
    "hqq-as-float": ({"quant_method": "hqq"}, lambda w: packers.hqq(w, 4, 64, as_float=True)),
    "hqq-across": ({"quant_method": "hqq"}, lambda w: packers.hqq(w, 4, 64, axis=0)),
    "hqq-mixed": ({"quant_method": "hqq"}, lambda w: packers.hqq(w, 4 if len(w) > 128 else 3, 64)),
    "bnb-nf4-nested": ({"quant_method": "bitsandbytes", "load_in_4bit": True},
                       lambda w: packers.bnb_nf4(w, nested=True)),
}
PACKED = ("gptq", "awq", "ct-4", "ct-8", "ct-int8", "bnb-int8", "hqq")
PLAIN = {"gptq-act-order": 2e-3, "hqq-across": 2e-3, "hqq-4-16": 2e-3, "hqq-4-256": 2e-3}
"""What has no grid of MLX's comes out in the scales' dtype, float16; all else is exact to float32's rounding."""


def written(folder, name):
    """(the quantized checkpoint's folder, that of the plain weights which it stands for)."""
    settings, pack = FORMATS[name]
    plain = tiny.checkpoint(folder / "plain", **SIZES)
    weights = load_file(plain / "model.safetensors")
    foreign, exact = {}, {}
    for key, w in weights.items():
        if "_proj.weight" not in key:
            foreign[key] = exact[key] = torch.tensor(w)
            continue
        tensors, stands_for = pack(w.astype(np.float64))
        path = key.removesuffix(".weight")
        foreign |= {f"{path}.{n}": t if isinstance(t, torch.Tensor) else torch.tensor(np.ascontiguousarray(t))
                    for n, t in tensors.items()}
        exact[key] = torch.tensor(stands_for.astype(np.float32))
    save_file(exact, plain / "model.safetensors", {"format": "pt"})
    made = folder / "made"
    made.mkdir()
    for file in plain.iterdir():
        if file.name != "model.safetensors":
            (made / file.name).write_bytes(file.read_bytes())
    save_file(foreign, made / "model.safetensors", {"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return made, plain


def logits(folder):
    return np.array(load_model(folder)(TOKENS).astype(mx.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_weights_it_stands_for(tmp_path, name):
    made, plain = written(tmp_path, name)
    model = load_model(made)
    got, wanted = np.array(model(TOKENS)), logits(plain)
    assert np.abs(got - wanted).max() <= PLAIN.get(name, 1e-4) * (wanted.max() - wanted.min())
    assert ("scales" in model.layers[0].mlp.up_proj) == (name.startswith(PACKED) and name not in PLAIN)


@pytest.mark.parametrize("name", ["gptq-4-128", "awq", "ct-4-asymmetric", "bnb-int8", "fp8-blocks", "hqq-mixed"])
def test_it_converts_and_saves_as_mlx(tmp_path, name):
    made, _ = written(tmp_path, name)
    convert(made, tmp_path / "mlx")
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert "quant_method" not in config.get("quantization_config", {})
    assert (logits(tmp_path / "mlx") == logits(made)).all()


def damaged(made, change):
    weights = {k: torch.tensor(v) for k, v in load_file(made / "model.safetensors").items()}
    change(weights)
    save_file(weights, made / "model.safetensors", {"format": "pt"})


AT = "model.layers.1.mlp.up_proj"
LOSSES = [(n, tensor) for n, tensors in {
    "gptq-4-128": ("scales", "qzeros"), "awq": ("scales", "qzeros"), "ct-4": ("weight_scale",),
    "bnb-int8": ("weight",), "bnb-nf4-nested": ("weight.absmax", "weight.quant_map", "weight.nested_quant_map"),
}.items() for tensor in tensors]


@pytest.mark.parametrize(("name", "tensor"), LOSSES)
def test_a_missing_tensor_is_named(tmp_path, name, tensor):
    made, _ = written(tmp_path, name)
    damaged(made, lambda w: w.pop(f"{AT}.{tensor}"))
    with pytest.raises(WeightError, match=rf"{AT}"):
        load_model(made)


@pytest.mark.parametrize(("name", "tensor"), [*LOSSES, ("gptq-4-128", "qweight"), ("gptq-4-128", "g_idx"),
                                              ("awq", "qweight"), ("ct-4", "weight_packed"), ("bnb-nf4", "weight")])
def test_a_cut_tensor_is_an_error(tmp_path, name, tensor):
    made, _ = written(tmp_path, name)
    key = f"{AT}.{tensor}"
    damaged(made, lambda w: w.update({key: w[key][: len(w[key]) // 2].clone()}))
    with pytest.raises(MLXLMError):
        logits(made)


@pytest.mark.parametrize(("settings", "said"), [
    ({"quant_method": "gptq", "bits": 5}, "2 or 3 or 4 or 8"), ({"quant_method": "gptq"}, "bits"),
    ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "gptq_v2"),
    ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemm"), ({"quant_method": "awq", "bits": 8}, "4"),
    ({"quant_method": "compressed-tensors"}, "config_groups"), (scheme(3), "4 or 8"),
    ({"quant_method": "fp8", "weight_block_size": "big"}, "two whole numbers"),
    ({"quant_method": "quip"}, "can't be loaded")])
def test_settings_that_are_not_read_are_refused(tmp_path, settings, said):
    folder = tiny.checkpoint(tmp_path / "m", quantization_config=settings)
    with pytest.raises(ConfigError, match=said):
        load_model(folder)


@pytest.mark.parametrize("state", [b"{", b"[]", b'{"shape": [2], "blocksize": 0, "dtype": "float32"}',
                                   b'{"shape": [], "blocksize": 64, "dtype": "float32"}',
                                   b'{"shape": [256, 128], "blocksize": 64, "dtype": "complex"}',
                                   b'{"shape": [256, 1280000], "blocksize": 64, "dtype": "float32"}'])
def test_a_lying_state_is_an_error(tmp_path, state):
    made, _ = written(tmp_path, "bnb-nf4")
    key = f"{AT}.weight.quant_state.bitsandbytes__nf4"
    damaged(made, lambda w: w.update({key: torch.tensor(list(state), dtype=torch.uint8)}))
    with pytest.raises(MLXLMError, match="up_proj"):
        logits(made)
