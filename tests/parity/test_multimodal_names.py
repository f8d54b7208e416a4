"""The text half of a multimodal checkpoint, under the names that it has beside its towers, loads as a text model."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx_lm import utils as mlx_lm
from safetensors.torch import load_file, save_file

from mlxlm.load import load_model

from . import reference
from .test_parity import assert_close, case_of, run

TYPES = {"gemma3n_text-shared-sparse": "gemma3n", "gemma4_text-shared-wide": "gemma4"}


def wrapped(model, folder, model_type):
    """The text model's folder as that of a model with towers."""
    reference.save(model, folder / "text")
    text = reference.save_old_config(folder / "text", folder / "old")
    whole = folder / "whole"
    whole.mkdir()
    weights = load_file(text / "model.safetensors")
    weights = {n.replace("model.", "model.language_model.", 1): w for n, w in weights.items()}
    for i in range(3, 6):  # layers that share keys and values have some in checkpoints, and don't read them
        for part in ("k_proj", "v_proj", "k_norm"):
            spare = weights[f"model.language_model.layers.{i - 2}.self_attn.{part}.weight"]
            weights[f"model.language_model.layers.{i}.self_attn.{part}.weight"] = spare.clone()
    weights["model.vision_tower.weight"] = torch.ones(8)
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": model_type, "vocab_size": 97, "text_config": json.loads((text / "config.json").read_text())}
    (whole / "config.json").write_text(json.dumps({**config, "vision_config": {"hidden_size": 8}}))
    return whole


@pytest.mark.parametrize("name", TYPES)
def test_names_beside_towers(name, tmp_path):
    _, model, ids, expected = case_of(name)
    folder = wrapped(model, tmp_path, TYPES[name])
    assert_close(run(load_model(folder, text_only=True), ids), expected)


def converted(name, bits, folder):
    """(mlx-lm's model, the folder that it saved)."""
    theirs, config = mlx_lm.load_model(wrapped(case_of(name)[1], folder, TYPES[name]))
    if bits:
        theirs, config = mlx_lm.quantize_model(theirs, config, 32, bits)
    (folder / "mlx").mkdir()
    mlx_lm.save_model(folder / "mlx", theirs)
    (folder / "mlx" / "config.json").write_text(json.dumps(config))
    return theirs, folder / "mlx"


@pytest.mark.parametrize("name", TYPES)
def test_mlx_lms_conversion_gives_the_references_numbers(name, tmp_path):
    _, _, ids, expected = case_of(name)
    assert_close(run(load_model(converted(name, None, tmp_path)[1]), ids), expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_conversions_give_mlx_lms_numbers(bits, tmp_path):
    name = "gemma4_text-shared-wide"  # mlx-lm turns Gemma 3n's shared layers by the wrong positions
    ids = case_of(name)[2]
    theirs, folder = converted(name, bits, tmp_path)
    assert_close(run(load_model(folder), ids), np.array(theirs(mx.array(ids))))
