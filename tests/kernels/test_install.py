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


@pytest.mark.parametrize("bits", [None, 4])
def test_a_whole_model_of_the_fallback_package(bits):
    """Linears, the table and its tied head, norms and rope of mlx-lm's own Llama run on our operations."""
    llama = pytest.importorskip("mlx_lm.models.llama")
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs(
        model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=128, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=96, rope_theta=1e4, tie_word_embeddings=True))
    if bits:
        nn.quantize(model, 32, bits)
    tokens = mx.array([[1, 2, 3, 95, 7]])
    before = numbers(model(tokens))
    kinds = {"Linear", "RMSNorm", "Embedding", "QuantizedLinear", "QuantizedEmbedding", "RoPE"}
    known = [m for _, m in model.named_modules() if type(m).__name__ in kinds]
    assert install(model) == len(known) == 2 * (7 + 2 + 1) + 2
    assert all(type(m).__module__ == modules.__name__ for m in known)
    np.testing.assert_allclose(numbers(model(tokens)), before, rtol=0, atol=1e-4 * abs(before).max())


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("transpose", [True, False])
def test_linears_of_each_head_of_the_fallback_package(bits, transpose):
    mla = pytest.importorskip("mlx_lm.models.mla")
    layer = mla.MultiLinear(64, 96, 4)
    model = nn.Sequential(layer.to_quantized(32, bits) if bits else layer)
    x = random(np.random.default_rng(0), (2, 4, 5, 64 if transpose else 96))
    before = numbers(model.layers[0](x, transpose=transpose))
    assert install(model) == 1
    np.testing.assert_allclose(numbers(model.layers[0](x, transpose=transpose)), before, atol=1e-5 * abs(before).max())


@pytest.mark.parametrize(("module", "shape"), [
    (nn.Conv1d(6, 8, 3, stride=2, padding=1), (2, 11, 6)),
    (nn.Conv1d(6, 6, 4, groups=6, bias=False), (2, 9, 6)),
    (nn.Conv2d(3, 8, 14, stride=14, bias=False), (1, 30, 28, 3)),
    (nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), groups=2), (2, 9, 8, 4)),
    (nn.Conv2d(4, 4, 3, dilation=2), (2, 9, 8, 4)),
    (nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4)), (1, 5, 9, 8, 3)),
    (nn.Conv3d(3, 8, 2, stride=1), (1, 4, 5, 6, 3)),
    (nn.LayerNorm(6), (3, 6)),
    (nn.LayerNorm(6, affine=False), (3, 6)),
    (nn.RMSNorm(6), (3, 6)),
    (nn.RoPE(8, traditional=True, base=100, scale=0.5), (1, 2, 5, 10)),
])
def test_other_modules(module, shape):
    x = random(np.random.default_rng(0), shape)
    model = nn.Sequential(module)
    before = numbers(model(x))
    assert install(model) == 1
    np.testing.assert_allclose(numbers(model(x)), before, rtol=0, atol=1e-5 * abs(before).max())


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
