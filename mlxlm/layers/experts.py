"""Linear layers with an expert axis, and the feed-forward layers made of them."""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels import ops
from .mlp import ACTS, GATES, Act, Glu, swiglu

FEW = 8  # tokens up to which experts are visited for each token by itself
SORT_FROM = 64  # picks from which it pays to visit each expert once, its tokens side by side


class SwitchLinear(nn.Module):
    """A Linear for each expert: weight (experts, out, in), bias (experts, out)."""

    def __init__(self, dim: int, out: int, experts: int, bias: bool = False):
        super().__init__()
        bound = math.sqrt(1 / dim)
        self.weight = mx.random.uniform(-bound, bound, (experts, out, dim))
        if bias:
            self.bias = mx.zeros((experts, out))

    def __call__(self, x: mx.array, picks: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (..., 1 or n, in), gathered by ``picks``; the result has ``out`` in place of ``in``."""
        y = ops.gather_mm(x, self.weight.swapaxes(-1, -2), rhs_indices=picks, sorted_indices=sorted_indices)
        return y + mx.expand_dims(self.bias[picks], -2) if "bias" in self else y

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> "QuantizedSwitchLinear":
        """The same layer, its weight quantized along the input axis."""
        return QuantizedSwitchLinear(self, group_size, bits, mode)


class QuantizedSwitchLinear(nn.Module):
    """SwitchLinear on quantized weights."""

    reads_narrow_scales = True

    def __init__(self, plain: SwitchLinear, group_size: int | None, bits: int | None, mode: str):
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, *biases = mx.quantize(plain.weight, group_size=group_size, bits=bits, mode=mode)
        if biases:
            self.biases = biases[0]
        if "bias" in plain:
            self.bias = plain.bias
        self.freeze()

    def __call__(self, x: mx.array, picks: mx.array, sorted_indices: bool = False) -> mx.array:
        y = ops.gather_qmm(
            x,
            self.weight,
            self.scales,
            self.get("biases"),
            rhs_indices=picks,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            sorted_indices=sorted_indices,
        )
        return y + mx.expand_dims(self.bias[picks], -2) if "bias" in self else y


class _Switched(nn.Module):
    """Brings each token to its experts and back: x (..., dim), picks (..., k) to (..., k, dim)."""

    def __call__(self, x: mx.array, picks: mx.array) -> mx.array:
        if picks.size < SORT_FROM:
            return self.work(mx.expand_dims(x, (-2, -3)), picks, False).squeeze(-2)
        k = picks.shape[-1]
        flat = picks.flatten()
        order = mx.argsort(flat)
        rows = x.reshape(-1, 1, x.shape[-1])[order // k]
        y = self.work(rows, flat[order], True)
        return y[mx.argsort(order)].reshape(*picks.shape, -1)

    def work(self, x: mx.array, picks: mx.array, ordered: bool) -> mx.array:
        raise NotImplementedError


class Experts(_Switched):
    """A gated MLP whose every weight has an expert axis."""

    def __init__(self, dim: int, hidden: int, experts: int, *, glu: Glu = swiglu, bias: bool = False):
        super().__init__()
        self.gate_proj = SwitchLinear(dim, hidden, experts, bias)
        self.up_proj = SwitchLinear(dim, hidden, experts, bias)
        self.down_proj = SwitchLinear(hidden, dim, experts, bias)
        self._glu = glu

    def work(self, x: mx.array, picks: mx.array, ordered: bool) -> mx.array:
        up = self.up_proj(x, picks, ordered)
        return self.down_proj(self._glu(self.gate_proj(x, picks, ordered), up), picks, ordered)


class ExpertsMLP(_Switched):
    """A plain MLP whose every weight has an expert axis."""

    def __init__(self, dim: int, hidden: int, experts: int, *, act: Act, bias: bool = False):
        super().__init__()
        self.fc1 = SwitchLinear(dim, hidden, experts, bias)
        self.fc2 = SwitchLinear(hidden, dim, experts, bias)
        self._act = act

    def work(self, x: mx.array, picks: mx.array, ordered: bool) -> mx.array:
        return self.fc2(self._act(self.fc1(x, picks, ordered)), picks, ordered)


def weighted(module: Any, x: mx.array, picks: mx.array, weights: mx.array) -> mx.array:
    """What the picked experts of ``module`` make of x (..., dim), weighted by (..., k) and summed."""
    act, linears = known(module)
    if act is not None and ops.native is not None and picks.size <= FEW * picks.shape[-1]:
        given, arrays = [native_shape(m) for m in linears], [a for m in linears for a in stored(m)]
        y = ops.native.experts_step(x, picks, weights, given, arrays, act)
        if y is not None:
            return y
    return (module(x, picks) * weights[..., None]).sum(-2).astype(x.dtype)


def known(module: Any) -> tuple[str | None, tuple[Any, ...]]:
    """(the activation, the linears) of experts that the kernels know, gate and up first; (None, ()) of others."""
    names, act = (), None
    if type(module) is Experts:
        names, act = ("gate_proj", "up_proj", "down_proj"), GATES.get(module._glu)
    elif type(module) is ExpertsMLP:
        names, act = ("fc1", "fc2"), ACTS.get(module._act)
    linears = tuple(module[name] for name in names)
    fits = act is not None and all(type(linear) is QuantizedSwitchLinear for linear in linears)
    return (act, linears) if fits else (None, ())


def native_shape(m: QuantizedSwitchLinear) -> tuple[str, int | None, int | None, bool, bool]:
    """What the kernels have to know of it."""
    return m.mode, m.group_size, m.bits, "bias" in m, False


def stored(m: QuantizedSwitchLinear) -> list[mx.array]:
    """Its arrays, in the order that the kernels take them."""
    return [m[name] for name in ("weight", "scales", "biases", "bias") if name in m]
