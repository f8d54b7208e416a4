"""One model under all names that its checkpoints come with: transformers 4's and 5's, mlx-vlm's, quantized or not."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mlxlm.checkpoint.save import save_model
from mlxlm.load import load_model

from . import reference
from .cases_qwen import CASES
from .reference import assert_close

OLD = {"model.visual.": "visual.", "model.language_model.": "model."}
NEW = {new: old for old, new in OLD.items()}


@pytest.fixture(params=[c.name for c in CASES])
def made(request, tmp_path):
    case = next(c for c in CASES if c.name == request.param)
    model = reference.build(case)
    prompt = reference.prompt(case, case.sizes)
    return reference.save(model, tmp_path / "model"), prompt, reference.logits(model, case, prompt)


def run(model, prompt):
    media = {name: mx.array(x) for name, x in prompt.media.items()}
    return np.array(model(mx.array(prompt.ids)[None], **media))[0]


def respelled(weights):
    """The names of the other of transformers' spellings: some types are still saved in the older one."""
    table = NEW if any(name.startswith("visual.") for name in weights) else OLD
    found = {n: next((n.replace(a, b, 1) for a, b in table.items() if n.startswith(a)), n) for n in weights}
    return {found[n]: w for n, w in weights.items()}


def test_older_names_and_configs(made, tmp_path):
    folder, prompt, expected = made
    old = tmp_path / "old"
    old.mkdir()
    weights = load_file(folder / "model.safetensors")
    new = respelled(weights)
    assert new.keys() != weights.keys()
    save_file(new, old / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = {**rope, "type": "mrope"}
    if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):  # whose text half stood at the root
        text.pop("model_type")
        config = {**text, **{k: v for k, v in config.items() if k != "text_config"}}
    (old / "config.json").write_text(json.dumps(config))
    assert_close(run(load_model(old), prompt), expected)


def test_saved_and_quantized(made, tmp_path):
    folder, prompt, expected = made
    config = json.loads((folder / "config.json").read_text())
    model = load_model(folder)
    save_model(model, tmp_path / "mlx", config=config)
    names = mx.load(str(tmp_path / "mlx" / "model.safetensors")).keys()
    assert {name.split(".")[0] for name in names} == {"vision_tower", "language_model"}
    assert_close(run(load_model(tmp_path / "mlx"), prompt), expected)
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda path, module: (
        path.startswith("language_model") and hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0))
    found = run(model, prompt)
    save_model(model, tmp_path / "quantized", config=config)
    assert_close(run(load_model(tmp_path / "quantized"), prompt), found)
    text = load_model(tmp_path / "quantized", text_only=True)
    ids = mx.array(prompt.ids[:5])[None]
    assert_close(np.array(text(ids)), np.array(model(ids)))
