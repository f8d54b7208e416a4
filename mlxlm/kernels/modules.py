"""Gives the linears, embeddings, norms and convolutions inside any model, mlx-lm's own included, our kernels' work.

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
    int8 = False  # whether a prompt's activations are rounded: see mlxlm.kernels.rounding

    def __call__(self, x: mx.array) -> mx.array:
        return ops.quantized_linear(
            x, self["weight"], self["scales"], self.get("biases"), self.get("bias"),
            group_size=self.group_size, bits=self.bits, mode=self.mode, int8=self.int8,
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


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` on ``ops.rms_norm``."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, self["weight"], self.eps)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` on ``ops.layer_norm``."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.layer_norm(x, self.get("weight"), self.get("bias"), self.eps)


class RoPE(nn.RoPE):
    """``nn.RoPE`` on ``ops.rope``."""

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        return ops.rope(x, self.dims, traditional=self.traditional, base=self.base, scale=self.scale, offset=offset)


class Conv1d(nn.Conv1d):
    """``nn.Conv1d`` on ``ops.conv2d``: an image of one row."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.conv2d(
            x[:, None], self["weight"][:, None], self.get("bias"), stride=(1, self.stride),
            padding=((0, 0), (self.padding, self.padding)), dilation=(1, self.dilation), groups=self.groups,
        ).squeeze(1)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` on ``ops.conv2d``."""

    def __call__(self, x: mx.array) -> mx.array:
        stride, (rows, columns), dilation = (_pair(n) for n in (self.stride, self.padding, self.dilation))
        return ops.conv2d(
            x, self["weight"], self.get("bias"), stride=stride, padding=((rows, rows), (columns, columns)),
            dilation=dilation, groups=self.groups,
        )


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` on ``ops.linear`` where its windows lie side by side, as those of patches do; else MLX's own."""

    def __call__(self, x: mx.array) -> mx.array:
        weight = self["weight"]
        kernel = weight.shape[1:4]
        if tuple(self.stride) != kernel or any(self.padding) or self.dilation not in (1, (1, 1, 1)):
            return super().__call__(x)
        counts = [size // k for size, k in zip(x.shape[1:4], kernel, strict=True)]
        whole = x[(slice(None), *(slice(count * k) for count, k in zip(counts, kernel, strict=True)))]
        (f, r, c), (kf, kr, kc) = counts, kernel
        windows = whole.reshape(-1, f, kf, r, kr, c, kc, x.shape[-1]).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return ops.linear(windows.flatten(4), weight.flatten(1), self.get("bias"))


def _pair(n: int | tuple[int, int]) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else n


_ALWAYS = {
    nn.Linear: Linear,
    nn.Embedding: Embedding,
    nn.QuantizedLinear: QuantizedLinear,
    nn.QuantizedEmbedding: QuantizedEmbedding,
    nn.RMSNorm: RMSNorm,
    nn.LayerNorm: LayerNorm,
    nn.RoPE: RoPE,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
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


@cache
def _latent_classes(module) -> dict[type, type]:
    class MultiLinear(module.MultiLinear):
        def __call__(self, x, transpose=True):
            weight = self["weight"]
            return ops.matmul(x, weight.swapaxes(-1, -2) if transpose else weight)

    class QuantizedMultiLinear(module.QuantizedMultiLinear):
        def __call__(self, x, transpose=True):
            return ops.quantized_matmul(
                x, self["weight"], self["scales"], self.get("biases"), transpose=transpose, group_size=self.group_size,
                bits=self.bits, mode=self.mode,
            )

    return {module.MultiLinear: MultiLinear, module.QuantizedMultiLinear: QuantizedMultiLinear}


_BORROWED = {"mlx_lm.models.switch_layers": _switch_classes, "mlx_lm.models.mla": _latent_classes}


def swap_classes(model: nn.Module) -> int:
    """Changes the classes of the modules inside ``model`` in place; returns how many it changed."""
    swaps = dict(_ALWAYS)
    for name, classes in _BORROWED.items():
        if name in sys.modules:
            swaps |= classes(sys.modules[name])
    count = 0
    for _, module in model.named_modules():
        better = swaps.get(type(module))
        if better is not None:
            module.__class__ = better
            count += 1
    return count
