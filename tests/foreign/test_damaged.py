"""Damaged, cut and lying checkpoints of each foreign format: an error of ours with file and tensor, never a crash."""

import json
import random
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_foreign import FORMATS, TOKENS, logits, written

from mlxlm import load_model
from mlxlm.errors import MLXLMError, WeightError

AT = "model.layers.1.mlp.up_proj"
NAMES = ("gptq-4-128", "gptq-v2", "gptq-act-order", "awq", "ct-4-asymmetric", "ct-8", "ct-int8", "ct-float8",
         "fp8-blocks", "bnb-int8", "bnb-nf4", "bnb-nf4-nested", "hqq-4-64", "hqq-3-64", "hqq-across")
SPARE = ("g_idx", "weight_shape", "view_as_float", "encoded_state_dict", "unpack_view_dtype", "stores_quant_config")
"""Tensors that a module does without, or whose numbers aren't read."""
READ = ("g_idx", "qweight", "qzeros", "scales", "weight_packed", "weight_scale", "weight_scale_inv", "SCB", "weight",
        "scale", "zero", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map")
"""Tensors of numbers that are read by their dtype."""
_made = TemporaryDirectory(prefix="mlxlm-damaged-")


@lru_cache
def whole(name):
    return written(Path(_made.name) / name, name)[0]


@pytest.fixture(params=NAMES)
def made(request, tmp_path):
    """(a copy of a quantized checkpoint, its weights, the names of one module's tensors)."""
    folder = tmp_path / "m"
    folder.mkdir()
    for file in whole(request.param).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    return folder, weights, [name for name in weights if name.startswith(f"{AT}.")]


def refused(folder, weights, what):
    save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    try:
        logits(folder)
    except MLXLMError as error:
        assert "model.safetensors" in str(error) or str(folder) in str(error), (what, str(error))
        assert "up_proj" in str(error), (what, str(error))
    else:
        raise AssertionError(f"{what} loads")


def test_a_missing_tensor(made):
    folder, weights, names = made
    for name in names:
        if not name.endswith(SPARE):
            refused(folder, {n: w for n, w in weights.items() if n != name}, f"without {name}")


def test_a_tensor_of_another_shape(made):
    folder, weights, names = made
    for name in names:
        w = weights[name]
        if name.endswith(("view_as_float", "encoded_state_dict", "unpack_view_dtype", "stores_quant_config", "axis")):
            continue
        changed = {"empty": w.flatten()[:0]}
        if w.numel() > 1:
            changed |= {"half": w[:len(w) // 2], "twice": torch.cat([w, w])}
        if w.numel() > 1 and not name.endswith("packing"):
            changed["another axis"] = w[None, None]
        for what, other in changed.items():
            refused(folder, weights | {name: other}, f"{what} of {name}")


def test_a_tensor_of_another_dtype(made):
    folder, weights, names = made
    packed = any("bitsandbytes__" in name for name in names)  # whose bytes may be kept under any dtype
    for name in names:
        w, last = weights[name], name.removeprefix(f"{AT}.")
        if last in READ and not (packed and last == "weight"):
            other = w.float() if not w.is_floating_point() or last == "weight" else w.to(torch.int16)
            refused(folder, weights | {name: other}, f"{name} as {other.dtype}")


def test_scales_that_are_no_numbers(made):
    folder, weights, names = made
    for name in names:
        if weights[name].is_floating_point() and not name.endswith(".weight"):
            for bad in (float("nan"), float("inf")):
                w = weights[name].clone()
                w.flatten()[-1] = bad
                refused(folder, weights | {name: w}, f"{bad} in {name}")


@pytest.mark.parametrize("bad", [-1, 2, 2**31 - 1, -(2**31)])
def test_groups_that_are_not_there(tmp_path, bad):
    folder, _ = written(tmp_path, "gptq-act-order")
    weights = load_file(folder / "model.safetensors")
    weights[f"{AT}.g_idx"][3] = bad
    refused(folder, weights, bad)


@pytest.mark.parametrize("bad", [4, 2**31 - 1])
def test_groups_that_are_not_there_in_compressed_tensors(tmp_path, bad):
    folder, _ = written(tmp_path, "ct-4")
    weights = load_file(folder / "model.safetensors")
    weights[f"{AT}.weight_g_idx"] = torch.arange(128, dtype=torch.int32) // 32
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    before = logits(folder)
    assert np.isfinite(before).all()
    weights[f"{AT}.weight_g_idx"][3] = bad
    refused(folder, weights, bad)


LIES = [("gptq-4-128", {"bits": 8}), ("gptq-4-128", {"bits": 2}), ("gptq-4-128", {"bits": 3}),
        ("ct-4-asymmetric", {"num_bits": 8}), ("ct-8", {"num_bits": 4}),
        ("fp8-blocks", {"weight_block_size": [64, 64]}), ("fp8-blocks", {"weight_block_size": [10**9, 1]}),
        ("fp8-small-blocks", {"weight_block_size": [48, 10**9]})]


@pytest.mark.parametrize(("name", "lie"), LIES)
def test_settings_that_lie(name, lie, tmp_path):
    folder, _ = written(tmp_path, name)
    config = json.loads((folder / "config.json").read_text())
    settings = config["quantization_config"]
    schemes = settings.get("config_groups")
    (schemes["group_0"]["weights"] if schemes else settings).update(lie)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightError, match="proj"):
        load_model(folder)


@pytest.mark.parametrize("name", ["gptq-4-128", "awq", "hqq-4-64"])
@pytest.mark.parametrize("size", [32, 64, 1000, 0, -5, "many", None])
def test_a_group_size_that_lies_changes_nothing(name, size, tmp_path):
    """The tensors themselves say how many groups there are."""
    folder, _ = written(tmp_path, name)
    before, config = logits(folder), json.loads((folder / "config.json").read_text())
    config["quantization_config"]["group_size"] = size
    (folder / "config.json").write_text(json.dumps(config))
    assert (logits(folder) == before).all()


def test_a_file_cut_anywhere(made):
    folder, _, _ = made
    data, choose = (folder / "model.safetensors").read_bytes(), random.Random(7)
    for cut in [choose.randrange(len(data)) for _ in range(4)] + [len(data) - 1]:
        (folder / "model.safetensors").write_bytes(data[:cut])
        with pytest.raises(WeightError, match=r"model\.safetensors"):
            load_model(folder)


@pytest.mark.parametrize("seed", range(6))
def test_anything_done_to_a_tensor_is_told_or_harmless(made, seed):
    folder, weights, names = made
    choose = random.Random(seed)
    name = choose.choice(names)
    w = weights[name]
    ways = [lambda: w.flatten(), lambda: w.T if w.ndim == 2 else w[None], lambda: w.reshape(-1, 1),
            lambda: w.to(choose.choice([torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool])),
            lambda: torch.cat([w.flatten(), w.flatten()[:1]]), lambda: w.flatten()[1:]]
    weights[name] = choose.choice(ways)().contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    try:
        mx.eval(load_model(folder)(TOKENS))
    except MLXLMError as error:
        assert str(error)


def test_every_format_is_damaged():
    assert {name.partition("-")[0] for name in NAMES} == {name.partition("-")[0] for name in FORMATS}
