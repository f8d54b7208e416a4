"""BitNet with packed weights, against transformers' own linear layers for them."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

from mlxlm.errors import ConfigError
from mlxlm.layers import bit_linear
from mlxlm.load import load_model

from . import reference
from .reference import Case

CASE = Case("bitnet", "packed", dict(num_hidden_layers=2))


@pytest.fixture(autouse=True)
def eager():
    """transformers compiles these layers, which says nothing about their numbers."""
    with torch.compiler.set_stance("force_eager"):
        yield


def ternary(*shape, seed=0):
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("dim", [64, 24])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_layer_equals_transformers(dim, inverted):
    w, x = ternary(20, dim), torch.randn(3, 5, dim)
    if inverted:
        theirs = BitLinear(dim, 20, bias=False, dtype=torch.float32)
        theirs.weight.copy_(pack_weights(w.clone()))
    else:
        theirs = AutoBitLinear(dim, 20, bias=False, dtype=torch.float32)
        theirs.weight.data = w
    theirs.weight_scale.fill_(1.7)
    ours = bit_linear.BitLinear(dim, 20, inverted=inverted)
    ours.weight, ours.weight_scale = mx.array(pack_weights(w.clone()).numpy()), mx.array([1.7])
    with torch.no_grad():
        expected = theirs(x).numpy()
    np.testing.assert_allclose(np.array(ours(mx.array(x.numpy()))), expected, atol=2e-5)


def packed_pair(folder, **settings):
    """(transformers' model with its linear layers for packed weights, the folder of its checkpoint)."""
    model = reference.build(CASE)
    config = json.loads(model.config.to_json_string(use_diff=False))
    state = {}
    for path, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            new = AutoBitLinear(layer.in_features, layer.out_features, bias=False, dtype=torch.float32)
            new.weight.data = ternary(*layer.weight.shape, seed=len(state))
            new.weight_scale.fill_(0.15)
            model.model.layers.set_submodule(path, new)
            state[f"model.layers.{path}.weight"] = pack_weights(new.weight.data.clone())
    state = {**{n: t.detach().clone() for n, t in model.state_dict().items()}, **state}
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    quantization = {"quant_method": "bitnet", "linear_class": "autobitlinear", **settings}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return model, folder


def test_a_packed_model_equals_transformers(tmp_path):
    theirs, folder = packed_pair(tmp_path / "model")
    ids = reference.tokens(CASE)
    expected = reference.logits(theirs, ids)
    model = load_model(folder)
    assert model.layers[0].mlp.up_proj.weight.dtype == mx.uint8
    off = np.abs(np.array(model(mx.array(ids))) - expected) / expected.std()
    # A value that lies on the edge between two of the 8-bit steps may fall to either side, so not every logit is exact.
    assert np.median(off) < 1e-5
    assert off.max() < 0.1


def test_weights_that_are_rounded_as_they_run_are_told_apart(tmp_path):
    _, folder = packed_pair(tmp_path / "model", quantization_mode="online")
    with pytest.raises(ConfigError, match="quantization_mode"):
        load_model(folder)
