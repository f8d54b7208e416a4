"""What is taken as it is stored: MXFP4 blocks of gpt-oss by the format's definition, MLX's own, and damage to each."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from test_foreign import TOKENS, logits

from mlxlm import load_model
from mlxlm.convert import Recipe, Setting, convert
from mlxlm.errors import MLXLMError

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4(w):
    """(blocks (…, groups, 16), scales (…, groups), values) of OCP's MXFP4: the first of two codes in the low half."""
    groups = w.reshape(*w.shape[:-1], -1, 32)
    exponent = np.clip(np.floor(np.log2(np.abs(groups).max(-1) + 1e-30)) - 2, -127, 127)
    codes = np.abs(groups[..., None] / 2.0 ** exponent[..., None, None] - E2M1).argmin(-1).astype(np.uint8)
    values = E2M1[codes] * 2.0 ** exponent[..., None]
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    scales = np.ascontiguousarray(exponent + 127, dtype=np.uint8)
    return torch.tensor(blocks), torch.tensor(scales), values.reshape(w.shape)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(a gpt-oss with blocks of MXFP4, one with the weights that these stand for)."""
    plain, packed = (tmp_path_factory.mktemp("gpt-oss") / name for name in ("plain", "packed"))
    shutil.copytree(tiny_models.folder("gpt_oss-yarn"), plain)
    weights = load_file(plain / "model.safetensors")
    held, exact = {}, {}
    for name, w in weights.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales, values = mxfp4(w.double().numpy().swapaxes(-1, -2))  # stored (experts, in, out)
            held |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            exact[name] = torch.tensor(values.swapaxes(-1, -2).copy(), dtype=torch.float32)
        else:
            held[name] = exact[name] = w
    assert len(held) > len(exact)
    shutil.copytree(plain, packed)
    exact, held = ({name: w.contiguous() for name, w in some.items()} for some in (exact, held))
    save_file(exact, plain / "model.safetensors", {"format": "pt"})
    save_file(held, packed / "model.safetensors", {"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (packed / "config.json").write_text(json.dumps(config))
    return packed, plain


def test_mxfp4_stays_packed_and_has_the_logits_of_its_numbers(pair, tmp_path):
    packed, plain = pair
    model = load_model(packed)
    got, wanted = np.array(model(TOKENS).astype(mx.float32)), logits(plain)
    assert model.layers[0].mlp.experts.up_proj.mode == "mxfp4"
    assert np.abs(got - wanted).max() <= 2e-2 * (wanted.max() - wanted.min())  # MLX's products of MXFP4 are bfloat16
    convert(packed, tmp_path / "out")
    assert (logits(tmp_path / "out") == got).all()
    convert(packed, tmp_path / "plain", dequantized=True, dtype="float32")
    back = logits(tmp_path / "plain")
    assert np.abs(back - wanted).max() <= 1e-5 * (wanted.max() - wanted.min())


def damaged(folder, target, change):
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file({n: w.contiguous() for n, w in weights.items()}, target / "model.safetensors", {"format": "pt"})
    with pytest.raises(MLXLMError) as told:
        logits(target)
    return str(told.value)


BLOCKS = "model.layers.1.mlp.experts.down_proj_"
CHANGES = {"missing": None, "half": lambda w: w[: len(w) // 2], "floats": lambda w: w.float(),
           "odd": lambda w: w[..., :-1], "flat": lambda w: w.flatten(), "empty": lambda w: w[:0]}


@pytest.mark.parametrize("kind", ["blocks", "scales"])
@pytest.mark.parametrize("change", CHANGES)
def test_damaged_blocks_are_told(pair, tmp_path, kind, change):
    name = BLOCKS + kind
    do = CHANGES[change]
    said = damaged(pair[0], tmp_path / "m",
                   lambda w: w.pop(name) if do is None else w.update({name: do(w[name])}))
    assert "down_proj" in said and str(tmp_path / "m") in said


@pytest.fixture(scope="module", params=[(4, 32, "affine"), (3, 64, "affine"), (4, 32, "mxfp4"), (8, 32, "mxfp8")],
                ids=lambda s: f"{s[2]}-{s[0]}")
def ours(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlx")
    tiny.checkpoint(folder / "plain", hidden_size=128, head_dim=32)
    convert(folder / "plain", folder / "q", recipe=Recipe(Setting(*request.param), "uniform", fit=False))
    return folder / "q"


@pytest.mark.parametrize("kind", ["weight", "scales"])
@pytest.mark.parametrize("change", CHANGES)
def test_damaged_tensors_of_mlx_own_are_told(ours, tmp_path, kind, change):
    name, do = f"model.layers.1.mlp.up_proj.{kind}", CHANGES[change]
    if change == "floats" and kind == "scales" and "mxfp" not in (ours / "config.json").read_text():
        pytest.skip("scales of this mode are floats")
    said = damaged(ours, tmp_path / "m", lambda w: w.pop(name) if do is None else w.update({name: do(w[name])}))
    assert "up_proj" in said and str(tmp_path / "m") in said


@pytest.mark.parametrize("lie", [{"bits": 8}, {"bits": 5}, {"group_size": 128}, {"bits": 7}, {"group_size": 48},
                                 {"mode": "nvfp4"}, {"mode": "magic"}, {"bits": "4"}])
def test_settings_of_mlx_own_that_lie(ours, tmp_path, lie):
    shutil.copytree(ours, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    settings = config["quantization"]
    if all(settings[key] == value for key, value in lie.items()):
        pytest.skip("that is the truth")
    config["quantization"] = config["quantization_config"] = {**settings, **lie}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MLXLMError, match=str(tmp_path / "m")):
        logits(tmp_path / "m")
