"""Modules given our kernels after loading: the same parameters, types and numbers."""

import os
import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from kernel_reference import numbers, random
from mlx.utils import tree_flatten

from mlxlm.kernels import install, modules


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.layers = [nn.Linear(64, 64), nn.Linear(64, 96, bias=False)]
        self.inner = {"head": nn.Linear(96, 64)}

    def __call__(self, tokens):
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.embed.as_linear(self.inner["head"](h))


@pytest.mark.parametrize("quantized", [None, "affine", "mxfp4"])
def test_a_model_stays_what_it_was(quantized):
    mx.random.seed(0)
    model = Model()
    if quantized:
        nn.quantize(model, group_size=32, bits=4, mode=quantized)
    model.layers[0].freeze()
    tokens = mx.array([[1, 2, 3], [7, 8, 49]])
    before, parameters = numbers(model(tokens)), dict(tree_flatten(model.parameters()))
    trainable = [name for name, _ in tree_flatten(model.trainable_parameters())]
    assert install(model) == 4
    assert install(model) == 0
    kind = nn.QuantizedLinear if quantized else nn.Linear
    assert isinstance(model.layers[0], kind) and type(model.layers[0]) is not kind
    assert [name for name, _ in tree_flatten(model.trainable_parameters())] == trainable
    after = dict(tree_flatten(model.parameters()))
    assert list(after) == list(parameters) and all(after[n] is parameters[n] for n in after)
    # An mxfp4 table gives bf16, which our linear modules keep and MLX's leave for the bias's f32.
    tolerance = 2.0**-6 if quantized == "mxfp4" else 3e-5
    np.testing.assert_allclose(numbers(model(tokens)), before, rtol=0, atol=tolerance * abs(before).max())


def test_subclasses_of_others_are_left_alone():
    class Special(nn.Linear):
        def __call__(self, x):
            return x

    model = nn.Sequential(Special(4, 4), nn.Linear(4, 4))
    assert install(model) == 1
    assert type(model.layers[0]) is Special


def test_quantizing_after_installing():
    model = Model()
    install(model)
    nn.quantize(model, group_size=32, bits=8)
    assert all(isinstance(m, nn.QuantizedLinear) for m in model.layers)


def test_switch_layers_of_the_fallback_package():
    switch = pytest.importorskip("mlx_lm.models.switch_layers")
    mx.random.seed(0)
    model = switch.SwitchGLU(64, 96, 8)
    rng = np.random.default_rng(0)
    x, indices = random(rng, (1, 30, 64)), mx.array(rng.integers(0, 8, (1, 30, 2)))
    for bits in (None, 4):
        if bits:
            nn.quantize(model, group_size=32, bits=bits)
        before = numbers(model(x, indices))
        assert install(model) == 3
        np.testing.assert_allclose(numbers(model(x, indices)), before, atol=1e-4 * abs(before).max())
        kind = switch.QuantizedSwitchLinear if bits else switch.SwitchLinear
        assert isinstance(model.up_proj, kind)


def test_compiled_functions_need_no_compiler_afterwards(tmp_path):
    code = (
        "import mlx.core as mx, mlx.nn as nn\n"
        "from mlxlm.kernels import install\n"
        "f = mx.compile(lambda a: mx.exp(a) * 2 + 1)\n"
        "install(nn.Sequential(nn.Linear(4, 4)))\n"
        "print(f(mx.zeros((3,))).tolist())"
    )
    environment = {**os.environ, "PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, text=True,
                          check=False)
    assert done.stdout.strip() == "[3.0, 3.0, 3.0]", done.stderr
    assert not list(tmp_path.iterdir())


def test_gradients_pass_through():
    """A loss on installed modules can be differentiated: training adapters works with kernels on."""
    model = Model()
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda path, m: path == "layers.1")
    tokens = mx.array([[1, 2, 3]])

    def loss(m):
        return (m(tokens) ** 2).mean()

    want = dict(tree_flatten(nn.value_and_grad(model, loss)(model)[1]))
    install(model)
    assert isinstance(model.layers[1], modules.QuantizedLinear)
    got = dict(tree_flatten(nn.value_and_grad(model, loss)(model)[1]))
    assert list(got) == list(want)
    for name in want:
        tolerance = 1e-4 * abs(numbers(want[name])).max() + 1e-7
        np.testing.assert_allclose(numbers(got[name]), numbers(want[name]), rtol=1e-4, atol=tolerance)
