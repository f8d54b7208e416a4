"""Budgets and tuned quantization: the bytes asked for, errors that shrink, and what each method doesn't take."""

import json

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_models

from mlxlm import load, load_model
from mlxlm.convert import Recipe, Setting, budget, convert, tuned
from mlxlm.convert.budget import _spent
from mlxlm.convert.measure import quality, sample_text
from mlxlm.errors import MLXLMError, UsageError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model that has learned something: on random weights no module matters more than another."""
    import mlx.nn as nn
    import mlx.optimizers as optimizers

    from mlxlm.checkpoint.save import save_model

    folder = tmp_path_factory.mktemp("trained")
    source = tiny.checkpoint(folder / "m", num_hidden_layers=2)
    model, tokenizer = load(source)
    rows, optimizer = tuned.calibration(tokenizer), optimizers.Adam(learning_rate=3e-3)
    step = nn.value_and_grad(model, lambda x: nn.losses.cross_entropy(model(x[:, :-1]), x[:, 1:]).mean())
    for i in range(25):
        _, gradients = step(rows[i % 4 * 2:i % 4 * 2 + 2, :128])
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
    config = json.loads((source / "config.json").read_text())
    save_model(model, folder / "t", config=config, source=source)
    return folder / "t"


@pytest.fixture(autouse=True)
def a_short_text(monkeypatch):
    for module in (budget, tuned):
        monkeypatch.setattr(module, "sample_text", lambda name: sample_text(name)[:1600])


def divergence(folder, source):
    tokenizer = load(source)[1]
    return quality(load_model(folder), tokenizer, load_model(source), most_tokens=1024).divergence


def test_a_budget_is_met_and_spent_where_it_matters(trained, tmp_path):
    base = Recipe(Setting(4, 32), "uniform", fit=False)
    done = convert(trained, tmp_path / "b", recipe=base, bits_per_weight=5.5)
    uniform = convert(trained, tmp_path / "u", recipe=base)
    assert 5.3 < done.bits_per_weight <= 5.5 and len({s.bits for s in done.settings.values()}) > 1
    equal = convert(trained, tmp_path / "e", recipe=base, size=uniform.bytes)
    assert equal.bytes <= uniform.bytes
    assert divergence(tmp_path / "e", trained) < divergence(tmp_path / "u", trained)


def test_a_budget_that_no_bits_meet_is_told(trained, tmp_path):
    with pytest.raises(UsageError, match=r"budget is too small.*at least"):
        convert(trained, tmp_path / "b", recipe=Recipe(Setting(4, 32)), bits_per_weight=1.0)
    with pytest.raises(UsageError, match="Give a recipe"):
        convert(trained, tmp_path / "b", bits_per_weight=4.0)
    assert not (tmp_path / "b").exists()


def test_spending_is_never_worse_than_any_uniform_choice():
    import mlx.nn as nn

    random = np.random.default_rng(0)
    modules = {f"m{i}": nn.Linear(64, 32) for i in range(6)}
    ladder = [Setting(bits, 32) for bits in (2, 3, 4, 6)]
    weights = zip(modules, random.uniform(1, 100, 6), strict=True)
    costs = {path: [c * 4.0**-s.bits for s in ladder] for path, c in weights}
    for rung, setting in enumerate(ladder):
        room = 6 * 64 * 32 * (setting.bits - 2) // 8
        chosen = _spent(modules, dict.fromkeys(modules, ladder), costs, room)
        used = sum(64 * 32 * (s.bits - 2) // 8 for s in chosen.values())
        spent = sum(costs[path][ladder.index(s)] for path, s in chosen.items())
        assert used <= room and spent <= sum(c[rung] for c in costs.values()) * 1.3


@pytest.mark.parametrize("method", ["gptq", "awq", "dwq"])
def test_a_method_of_mlx_lm_helps(method, trained, tmp_path):
    from mlx_lm.utils import load_model as theirs

    recipe = Recipe(Setting(2, 64), "uniform", fit=False, overrides={"lm_head": Setting(6), "*embed*": Setting(6)})
    convert(trained, tmp_path / "plain", recipe=recipe)
    done = convert(trained, tmp_path / "tuned", recipe=recipe, method=method)
    assert done.settings["model.layers.1.mlp.up_proj"] == Setting(2, 64)
    assert divergence(tmp_path / "tuned", trained) < divergence(tmp_path / "plain", trained)
    tokens = mx.array([[1, 5, 9, 40, 3]])
    a, b = np.array(load_model(tmp_path / "tuned")(tokens)), np.array(theirs(tmp_path / "tuned")[0](tokens))
    assert np.abs(a - b).max() <= 2e-4 * (b.max() - b.min())


def test_gptq_leaves_what_the_recipe_leaves(trained, tmp_path):
    recipe = Recipe(Setting(4, 32), overrides={"*.v_proj": None, "*.o_proj": Setting(8, 32)})
    done = convert(trained, tmp_path / "q", recipe=recipe, method="gptq")
    layer = load_model(tmp_path / "q").layers[0].self_attn
    assert "scales" not in layer.v_proj and layer.o_proj.bits == 8 and layer.q_proj.bits == 4
    assert done.settings["lm_head"].bits == 5


def test_what_a_method_does_not_take(trained, tmp_path):
    for recipe, method, words in ((Recipe(Setting(3)), "gptq", "2, 4 or 8"),
                                  (Recipe(Setting(4)), "x", "unknown method"),
                                  (Recipe(Setting(4, 32, "mxfp4")), "dwq", "affine")):
        with pytest.raises(UsageError, match=words):
            convert(trained, tmp_path / "q", recipe=recipe, method=method)


def test_awq_says_which_architectures_it_knows(tmp_path):
    from shutil import copytree

    source = copytree(tiny_models.folder("lfm2-convolutions"), tmp_path / "m")
    tiny.tokenizer(source)
    with pytest.raises(MLXLMError, match=r"lfm2.*llama"):
        convert(source, tmp_path / "q", recipe=Recipe(Setting(4, 32)), method="awq")


def test_the_command_takes_a_budget(trained, tmp_path, mlxlm):
    status, out, err = mlxlm("convert", trained, "-o", tmp_path / "q", "-q", "--q-group-size", "32", "--bpw", "6",
                             "--no-fit")
    assert status == 0, err
    assert "5.9" in out or "6.00" in out
    assert mlxlm("convert", trained, "-o", tmp_path / "z", "--bpw", "6")[0] == 2
