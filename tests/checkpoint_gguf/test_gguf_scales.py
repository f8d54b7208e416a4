"""float16 scales of float32 numbers: the same numbers as with float32 scales, whatever becomes of the model."""

import copy

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import quants
from gguf_made import llama, tokenizer, write
from mlx.utils import tree_flatten

from mlxlm import adapters, load_model
from mlxlm.adapters.modules import AdaptedLinear
from mlxlm.checkpoint.gguf import joined, open_gguf
from mlxlm.convert import convert
from mlxlm.info import describe
from mlxlm.kernels import choice, keeps_narrow_scales
from mlxlm.kernels.scales import number_dtype
from mlxlm.layers.dequantize import plain_weight
from mlxlm.load import build_model

MIXED = {"attn_v": "Q5_1", "ffn_down": "Q8_0", "attn_output": "Q4_1", "token_embd": "Q8_0", "ffn_up": "IQ4_NL"}


@pytest.fixture
def path(tmp_path):
    """A llama in blocks of several types, one tensor of which has an offset beyond float16."""
    metadata, tensors = llama(vocab=96, dim=128, layers=2)
    return write(tmp_path / "m.gguf", "llama", {**metadata, **tokenizer()},
                 {name: blocks(name, value) for name, value in tensors.items()})


def blocks(name, value):
    if value.ndim < 2:
        return value
    kind = next((MIXED[part] for part in MIXED if part in name), "Q4_0")
    kind = gguf.GGMLQuantizationType["Q4_0" if kind == "IQ4_NL" else kind]
    data = quants.quantize(value * (70_000 if name == "blk.1.ffn_gate.weight" else 0.25), kind)
    if "ffn_up" in name:  # 16 nibbles after a scale, as Q4_0's: the package can't quantize to this type
        kind = gguf.GGMLQuantizationType.IQ4_NL
        halves = np.ascontiguousarray(data.reshape(-1, 18)[:, :2]).view(np.float16)
        data.reshape(-1, 18)[:, :2] = (halves / 16).astype(np.float16).view(np.uint8)
    return data, kind


def logits(model):
    return np.array(model(mx.arange(3, 23)[None], cache=model.make_cache()))


def wide(path):
    return build_model(open_gguf(path, scale_dtype="float32"))


def scale_dtypes(model):
    parameters = dict(tree_flatten(model.parameters()))
    return {name: w.dtype for name, w in parameters.items() if name.endswith((".scales", ".biases"))}


def test_they_give_the_logits_of_float32_ones(path):
    model = load_model(path)
    narrow = keeps_narrow_scales()
    assert model.model.embed_tokens.scales.dtype == (mx.float16 if narrow else mx.float32)
    overflowing = "model.layers.1.mlp.gate_proj"
    wanted = {name: mx.float32 if name.startswith(overflowing) or not narrow else mx.float16
              for name in scale_dtypes(model)}
    assert scale_dtypes(model) == wanted
    got = model(mx.arange(3, 23)[None])
    assert got.dtype == mx.float32 and model.model.embed_tokens(mx.array([[1]])).dtype == mx.float32
    np.testing.assert_array_equal(logits(model), logits(wide(path)))
    tokens, cache = mx.arange(3, 23), model.make_cache()
    steps = [np.array(model(token[None, None], cache=cache))[0, 0] for token in tokens]
    np.testing.assert_allclose(np.stack(steps), logits(model)[0], atol=2e-4 * np.abs(logits(model)).max())


def test_their_size_is_known_before(tmp_path):
    metadata, tensors = llama(vocab=96, dim=128)
    path = write(tmp_path / "m.gguf", "llama", {**metadata, **tokenizer()},
                 {name: blocks(name, value) for name, value in tensors.items()})
    parameters = dict(tree_flatten(load_model(path).parameters()))
    assert describe(path).weight_bytes == sum(w.nbytes for w in parameters.values())


def test_plain_mlx_is_given_wide_ones(path, monkeypatch):
    wanted = logits(wide(path))
    monkeypatch.setattr(choice, "CHOICE", choice.Choice(None, None, "a test"))
    model = load_model(path)
    assert set(scale_dtypes(model).values()) == {mx.float32}
    np.testing.assert_allclose(logits(model), wanted, atol=2e-5 * np.abs(wanted).max())


def test_plain_weights_are_the_files_values(path):
    model = load_model(path)
    for tensor, module in (("token_embd", model.model.embed_tokens),
                           ("blk.1.ffn_up", model.model.layers[1].mlp.up_proj),
                           ("blk.1.ffn_gate", model.model.layers[1].mlp.gate_proj)):
        stored = open_gguf(path).tensors[f"{tensor}.weight"]
        values = quants.dequantize(np.array(stored.data), gguf.GGMLQuantizationType[stored.block.name])
        assert plain_weight(module).dtype == mx.float32
        np.testing.assert_array_equal(np.array(plain_weight(module)), values)
    table = model.model.embed_tokens
    np.testing.assert_array_equal(np.array(table(mx.array([5, 90]))), np.array(plain_weight(table))[[5, 90]])


def test_a_saved_model_says_float32_to_mlx_lm_too(path, tmp_path):
    from mlx_lm.utils import load_model as theirs

    model = load_model(path)
    convert(path, tmp_path / "q")
    saved = load_model(tmp_path / "q")
    assert set(scale_dtypes(saved).values()) == {mx.float32}
    np.testing.assert_array_equal(logits(saved), logits(model))
    bound = 2e-5 * np.abs(logits(model)).max()
    np.testing.assert_allclose(np.array(theirs(tmp_path / "q")[0](mx.arange(3, 23)[None])), logits(model), atol=bound)
    convert(path, tmp_path / "plain", dequantized=True)
    np.testing.assert_allclose(logits(load_model(tmp_path / "plain")), logits(model), atol=bound)


def test_adapters_add_to_the_exact_weights(path):
    model = load_model(path)
    base = model.model.layers[0].mlp.down_proj
    model.model.layers[0].mlp.down_proj = AdaptedLinear(base)
    np.testing.assert_array_equal(logits(model), logits(load_model(path)))
    assert adapters.fuse(model, dequantize=True) == 1
    np.testing.assert_array_equal(np.array(model.model.layers[0].mlp.down_proj.weight), np.array(plain_weight(base)))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_a_dtype_that_is_asked_for_is_that_of_the_numbers(path, name):
    dtype = getattr(mx, name)
    model = load_model(path, dtype=name)
    assert model(mx.array([[1, 2]])).dtype == model.model.embed_tokens(mx.array([[1]])).dtype == dtype
    assert {number_dtype(m) for _, m in model.named_modules() if "scales" in m} == {dtype}
    if name == "float32":
        np.testing.assert_array_equal(logits(model), logits(wide(path)))


def test_a_folder_of_bfloat16_can_be_run_in_float32(path, tmp_path):
    convert(path, tmp_path / "q", dtype="bfloat16")
    model = load_model(tmp_path / "q", dtype="float32")
    by_hand = load_model(tmp_path / "q", dtype="float32")
    for _, module in by_hand.named_modules():
        if "scales" in module:
            module.scales, module.biases = module.scales.astype(mx.float32), module.biases.astype(mx.float32)
    np.testing.assert_array_equal(logits(model), logits(by_hand))
    assert logits(model).dtype == np.float32


def test_a_copy_and_a_cast_keep_their_meaning(path):
    model = load_model(path)
    np.testing.assert_array_equal(logits(copy.deepcopy(model)), logits(model))
    model.set_dtype(mx.bfloat16)
    assert model(mx.array([[1, 2]])).dtype == mx.bfloat16


def test_halves_with_scales_of_two_dtypes_are_joined():
    codes = {"a.weight#0": mx.zeros((2, 4), mx.uint32), "a.weight#1": mx.ones((2, 4), mx.uint32)}
    scales = {"a.scales#0": mx.full((2, 1), 0.5, mx.float16), "a.scales#1": mx.full((2, 1), 1e-9, mx.float32)}
    out = joined(codes | scales)
    assert out["a.weight"].dtype == mx.uint32 and out["a.scales"].dtype == mx.float32
    assert out["a.scales"].flatten().tolist() == [0.5, 0.5, np.float32(1e-9), np.float32(1e-9)]
