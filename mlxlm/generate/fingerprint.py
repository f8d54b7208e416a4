"""What tells one model's weights from another's without reading all of them: a few numbers out of every array."""

import hashlib
import weakref
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

SAMPLES = 16  # of each array: a fine-tuned or quantized one differs in nearly all its numbers
_known: dict[int, tuple[Any, tuple[int, ...], str]] = {}


def fingerprint(model: Any) -> str:
    """A hexadecimal digest of the type, and of each parameter's name, shape, dtype and a sample of its numbers.

    Worked out again once a parameter was replaced.
    """
    parameters: list[Any] = sorted(tree_flatten(model.parameters()), key=lambda pair: pair[0])
    ids = tuple(id(array) for _, array in parameters)
    known = _known.get(id(model))
    if known is not None and known[0]() is model and known[1] == ids:
        return known[2]
    digest = hashlib.sha256(str(getattr(model, "model_type", type(model).__name__)).encode())
    samples = [_sample(array) for _, array in parameters]
    mx.eval(samples)
    for (name, array), sample in zip(parameters, samples, strict=True):
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.array(sample).tobytes())
    result = digest.hexdigest()[:32]
    number = id(model)
    _known[number] = (weakref.ref(model, lambda _: _known.pop(number, None)), ids, result)
    return result


def _sample(array: mx.array) -> mx.array:
    flat = array.reshape(-1)
    picked = flat[:: max(flat.size // SAMPLES, 1)][: SAMPLES + 1]
    exact = array.dtype in (mx.bfloat16, mx.float16)
    return picked.astype(mx.float32) if exact else picked
