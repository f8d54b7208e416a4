"""Dense feed-forward layers, and the table of activations by their names in config.json."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError
from ..kernels import ops

Act = Callable[[mx.array], mx.array]
Glu = Callable[[mx.array, mx.array], mx.array]

ACTIVATIONS: dict[str, Act] = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "gelu_python": nn.gelu,
    "gelu_fast": nn.gelu_approx,
    "quick_gelu": nn.gelu_fast_approx,
    "relu": nn.relu,
    "relu2": nn.relu2,
    "sigmoid": mx.sigmoid,
    "tanh": mx.tanh,
    "linear": lambda x: x,
}


def activation(name: str) -> Act:
    """The function that ``hidden_act`` names. Raises ConfigError for one that isn't known."""
    if name not in ACTIVATIONS:
        raise ConfigError(
            "this activation is not known",
            where="config.json",
            found=repr(name),
            expected=f"one of {', '.join(sorted(ACTIVATIONS))}",
        )
    return ACTIVATIONS[name]


def native(act: Act) -> Act:
    """An activation as the kernels have it, where they do."""
    return ops.silu if act is nn.silu else ops.relu2 if act is nn.relu2 else act


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    return ops.swiglu(gate, up)


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate) * up, by the tanh formula."""
    return ops.geglu(gate, up)


def gated(name: str) -> Glu:
    """The gated unit of an activation: act(gate) * up."""
    act = activation(name)
    if act is nn.silu:
        return swiglu
    return geglu if act is nn.gelu_approx else lambda gate, up: act(gate) * up


class GatedMLP(nn.Module):
    """down(glu(gate(x), up(x)))."""

    def __init__(self, dim: int, hidden: int, *, glu: Glu = swiglu, bias: bool = False):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)
        self._glu = glu

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self._glu(self.gate_proj(x), self.up_proj(x)))


class MLP(nn.Module):
    """down(act(up(x)))."""

    def __init__(self, dim: int, hidden: int, *, act: Act, bias: bool = False):
        super().__init__()
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)
        self._act = act

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(native(self._act)(self.up_proj(x)))
