"""Every kind of architecture in every mode and bits: there and back, and for some of each pair into mlx-lm."""

import json
from itertools import cycle, product

import mlx.core as mx
import numpy as np
import pytest
import tiny_models
from mlx.utils import tree_flatten

from mlxlm import load_model
from mlxlm.convert import Recipe, Setting, convert
from mlxlm.convert.recipes import BITS

MODES = [(bits, 16 if mode == "nvfp4" else 32, mode) for mode in BITS for bits in BITS[mode]]
PAIRS = list(zip(tiny_models.KINDS, cycle(MODES), strict=False))
OTHERS = [pair for pair in product(tiny_models.KINDS, MODES) if pair not in PAIRS]
IDS = mx.array([[5, 9, 40, 3, 77, 12, 8, 61, 20, 33]])


def logits(model):
    out = model(IDS)
    return np.array(getattr(out, "logits", out).astype(mx.float32))


def close(a, b, bound):
    return np.abs(a - b).max() <= bound * (b.max() - b.min())


def named(pairs):
    return [f"{kind}-{mode}-{bits}" for kind, (bits, _, mode) in pairs]


@pytest.mark.parametrize(("kind", "setting"), OTHERS, ids=named(OTHERS))
def test_converted_and_dequantized(kind, setting, tmp_path):
    bits, group, mode = setting
    source = tiny_models.folder(tiny_models.KINDS[kind])
    done = convert(source, tmp_path / "q", recipe=Recipe(Setting(bits, group, mode), "uniform", fit=False))
    assert {s.mode for s in done.settings.values()} >= {mode} and len(done.settings) > 4
    convert(tmp_path / "q", tmp_path / "plain", dequantized=True)
    assert close(logits(load_model(tmp_path / "q")), logits(load_model(tmp_path / "plain")), 1e-4)


@pytest.mark.parametrize(("kind", "setting"), PAIRS, ids=named(PAIRS))
def test_converted_dequantized_and_in_mlx_lm(kind, setting, tmp_path):
    from mlx_lm.utils import load_model as theirs

    name = tiny_models.KINDS[kind]
    source = tiny_models.folder(name)
    if with_theirs := tiny_models.as_mlx_lm(name) is not None:
        source = source.parent / f"{name}-old"  # the config in the words of released checkpoints, which mlx-lm reads
    bits, group, mode = setting
    done = convert(source, tmp_path / "q", recipe=Recipe(Setting(bits, group, mode), "uniform", fit=mode == "affine"))
    assert {s.mode for s in done.settings.values()} >= {mode} and len(done.settings) > 4
    convert(tmp_path / "q", tmp_path / "plain", dequantized=True)
    assert "quantization" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    ours = logits(load_model(tmp_path / "q"))
    assert close(ours, logits(load_model(tmp_path / "plain")), 1e-4)
    if with_theirs:
        assert close(logits(theirs(tmp_path / "q")[0]), ours, 5e-4)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "paligemma"])
def test_a_vision_language_model_keeps_its_tower_plain(model_type, tmp_path):
    from vlm import reference
    from vlm.cases import CASES

    case = next(c for c in CASES if c.model_type == model_type)
    source = reference.save(reference.build(case), tmp_path / "m")
    done = convert(source, tmp_path / "q", recipe=Recipe(Setting(4, 32), "uniform"))
    assert done.settings and all(path.startswith("language_model") for path in done.settings)
    convert(tmp_path / "q", tmp_path / "plain", dequantized=True)
    before, model, plain = (load_model(folder) for folder in (source, tmp_path / "q", tmp_path / "plain"))
    assert close(logits(model), logits(plain), 1e-4)
    kept = dict(tree_flatten(model.parameters()))
    towers = {name: w for name, w in tree_flatten(before.parameters()) if not name.startswith("language_model")}
    assert towers and all(mx.array_equal(kept[name], w) for name, w in towers.items())


def test_experts_counted_in_newer_words_are_counted_in_older_ones_too(tmp_path):
    """transformers 5 writes `num_local_experts` where mlx-lm reads `num_experts`."""
    from mlx_lm.utils import load_model as theirs

    source = tiny_models.folder(tiny_models.KINDS["experts"])
    assert "num_experts" not in json.loads((source / "config.json").read_text())
    convert(source, tmp_path / "out")
    assert close(logits(theirs(tmp_path / "out")[0]), logits(load_model(source)), 2e-4)
