"""Gives the linear and embedding modules inside any model, mlx-lm's own included, a ``__call__`` by our kernels.

A module keeps its parameters, its freezing and its type: its class becomes a subclass of the one it had. Only the exact
classes known here are changed, since a subclass may have meant something else by ``__call__``.
"""

from __future__ import annotations

import sys
from functools import cache

import mlx.core as mx
import mlx.nn as nn

from mlxlm.kernels import ops
from mlxlm.kernels.scales import number_dtype


class Linear(nn.Linear):
    """``nn.Linear`` on ``ops.linear``."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.linear(x, self["weight"], self.get("bias"))


class Embedding(nn.Embedding):
    """``nn.Embedding`` whose tied head runs on ``ops.linear``."""

    def as_linear(self, x: mx.array) -> mx.array:
        return ops.linear(x, self["weight"])


class QuantizedLinear(nn.QuantizedLinear):
    """``nn.QuantizedLinear`` on ``ops.quantized_linear``; the result has x's dtype."""

    reads_narrow_scales = True

    def __call__(self, x: mx.array) -> mx.array:
        return ops.quantized_linear(
            x, self["weight"], self["scales"], self.get("biases"), self.get("bias"),
            group_size=self.group_size, bits=self.bits, mode=self.mode,
        )


class QuantizedEmbedding(nn.QuantizedEmbedding):
    """``nn.QuantizedEmbedding`` on ``ops.quantized_embedding``, its tied head on ``ops.quantized_matmul``."""

    reads_narrow_scales = True

    def __call__(self, x: mx.array) -> mx.array:
        return ops.quantized_embedding(
            x, self["weight"], self["scales"], self.get("biases"),
            group_size=self.group_size, bits=self.bits, mode=self.mode, dtype=number_dtype(self),
        )

    def as_linear(self, x: mx.array) -> mx.array:
        return ops.quantized_matmul(
            x, self["weight"], self["scales"], self.get("biases"),
            group_size=self.group_size, bits=self.bits, mode=self.mode,
        )


_ALWAYS = {
    nn.Linear: Linear,
    nn.Embedding: Embedding,
    nn.QuantizedLinear: QuantizedLinear,
    nn.QuantizedEmbedding: QuantizedEmbedding,
}


@cache
def _switch_classes(module) -> dict[type, type]:
    # Made on demand: mlx-lm is imported only where a model of its own is in use.
    class SwitchLinear(module.SwitchLinear):
        def __call__(self, x, indices, sorted_indices=False):
            y = ops.gather_mm(x, self["weight"].swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
            return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y

    class QuantizedSwitchLinear(module.QuantizedSwitchLinear):
        reads_narrow_scales = True

        def __call__(self, x, indices, sorted_indices=False):
            y = ops.gather_qmm(
                x, self["weight"], self["scales"], self.get("biases"), rhs_indices=indices, transpose=True,
                group_size=self.group_size, bits=self.bits, mode=self.mode,
                global_scale=getattr(self, "global_scale", None), sorted_indices=sorted_indices,
            )
            return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y

    return {module.SwitchLinear: SwitchLinear, module.QuantizedSwitchLinear: QuantizedSwitchLinear}


def swap_classes(model: nn.Module) -> int:
    """Changes the classes of ``model``'s linear and embedding modules in place; returns how many it changed."""
    swaps = dict(_ALWAYS)
    switch = sys.modules.get("mlx_lm.models.switch_layers")
    if switch is not None:
        swaps |= _switch_classes(switch)
    count = 0
    for _, module in model.named_modules():
        better = swaps.get(type(module))
        if better is not None:
            module.__class__ = better
            count += 1
    return count
