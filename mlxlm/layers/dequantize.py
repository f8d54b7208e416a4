"""Quantized modules back to their plain kinds, of every kind that a model has; nothing is computed until it is used."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels.scales import in_number_dtype, is_quantized
from .experts import QuantizedSwitchLinear, SwitchLinear
from .latent_attention import MultiLinear, QuantizedMultiLinear

PLAIN: dict[type, Callable[[Any], nn.Module]] = {
    nn.QuantizedLinear: lambda m: nn.Linear(1, 1, bias="bias" in m),
    nn.QuantizedEmbedding: lambda m: nn.Embedding(1, 1),
    QuantizedSwitchLinear: lambda m: SwitchLinear(1, 1, 1, "bias" in m),
    QuantizedMultiLinear: lambda m: MultiLinear(1, 1, 1),
}


def plain_weight(module: Any, dtype: mx.Dtype | None = None) -> mx.array:
    """A module's weight as numbers, with ``dtype`` or, of a quantized one, the dtype that its scales stand for."""
    if not is_quantized(module):
        return module.weight if dtype is None else module.weight.astype(dtype)
    scales: dict[str, Any] = in_number_dtype(module)
    return mx.dequantize(module.weight, **scales, group_size=module.group_size, bits=module.bits, mode=module.mode,
                         dtype=dtype)


def plain(module: Any, dtype: mx.Dtype | None = None) -> nn.Module | None:
    """The plain module with a quantized one's numbers, or None for a kind that isn't known."""
    make = next((make for kind, make in PLAIN.items() if isinstance(module, kind)), None)
    if make is None:
        return None
    made = make(module)
    made["weight"] = plain_weight(module, dtype)
    if "bias" in module:
        made["bias"] = module.bias
    return made
