"""Checkpoints that mlx-lm converts load as they are and give its logits, or transformers' where it is wrong."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import utils as mlx_lm

from mlxlm.load import load_model

from . import reference
from .cases import CASES
from .test_parity import BOUND, assert_close, case_of, run

# Two runs on MLX are compared here, and each may be off by the bound from what exact arithmetic would give.
GOOD = [c.name for c in CASES if not c.mlx_lm_wrong]
FIRST = {c.model_type: c.name for c in reversed(CASES) if not c.mlx_lm_wrong}.values()  # one of each type


def converted(row, tmp_path, bits):
    """(mlx-lm's model, the folder that it saved): from a checkpoint in transformers 4's words, which it reads."""
    reference.save(row[1], tmp_path / "model")
    source = reference.save_old_config(tmp_path / "model", tmp_path / "old")
    model, config = mlx_lm.load_model(source)
    if bits:
        model, config = mlx_lm.quantize_model(model, config, 32, bits)
    (tmp_path / "mlx").mkdir()
    mlx_lm.save_model(tmp_path / "mlx", model)
    (tmp_path / "mlx" / "config.json").write_text(json.dumps(config))
    return model, tmp_path / "mlx"


@pytest.mark.parametrize("name, bits", [*((n, b) for n in GOOD for b in (None, 4)), *((n, 8) for n in FIRST)])
def test_the_same_logits_from_the_same_folder(name, bits, tmp_path):
    row = case_of(name)
    ids = row[2]
    theirs, folder = converted(row, tmp_path, bits)
    expected = np.array(theirs(mx.array(ids)))
    assert_close(run(load_model(folder), ids), expected, 2 * BOUND)


@pytest.mark.parametrize("name", [c.name for c in CASES])
def test_four_bits_equal_their_own_dequantized_weights(name, tmp_path):
    from mlx.utils import tree_flatten, tree_unflatten

    from mlxlm.strict import quantize_structure

    _, model, ids, _ = case_of(name)
    folder = reference.save(model, tmp_path / "model")
    plain, quantized = load_model(folder), load_model(folder)
    weights, exact = {}, {}
    for path, w in tree_flatten(plain.parameters()):
        module, _, kind = path.rpartition(".")
        owner = dict(plain.named_modules())[module]
        if kind == "weight" and hasattr(owner, "to_quantized") and w.shape[-1] % 32 == 0:
            weights[f"{module}.weight"], weights[f"{module}.scales"], weights[f"{module}.biases"] = mx.quantize(
                w, 32, 4
            )
            exact[path] = mx.dequantize(*(weights[f"{module}.{k}"] for k in ("weight", "scales", "biases")), 32, 4)
        else:
            weights[path] = exact[path] = w
    quantize_structure(quantized, weights, {"group_size": 32, "bits": 4}, "test")
    quantized.load_weights(list(weights.items()), strict=True)
    plain.update(tree_unflatten(list(exact.items())))
    assert any(path.endswith(".scales") for path in weights)
    assert_close(run(quantized, ids), run(plain, ids), 2 * BOUND)
