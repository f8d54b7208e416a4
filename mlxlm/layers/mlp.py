"""Dense feed-forward layers, and the table of activations by their names in config.json."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError
from ..kernels import ops

Act = Callable[[mx.array], mx.array]
Glu = Callable[[mx.array, mx.array], mx.array]

ACTIVATIONS: dict[str, Act] = {
    "silu": ops.silu,
    "swish": ops.silu,
    "gelu": ops.gelu,
    "gelu_new": ops.gelu_tanh,
    "gelu_pytorch_tanh": ops.gelu_tanh,
    "gelu_python": ops.gelu,
    "gelu_fast": ops.gelu_tanh,
    "quick_gelu": ops.quick_gelu,
    "relu": nn.relu,
    "relu2": ops.relu2,
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


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    return ops.swiglu(gate, up)


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate) * up, by the tanh formula."""
    return ops.geglu(gate, up)


GATES: dict[Any, str] = {swiglu: "silu", geglu: "gelu_tanh"}
"""What the kernels call the activations of gated units, and plain activations."""
ACTS: dict[Any, str] = {
    ops.silu: "silu", ops.relu2: "squared_relu", nn.relu2: "squared_relu", ops.gelu: "gelu", ops.gelu_tanh: "gelu_tanh",
    ops.quick_gelu: "quick_gelu",
}


def gated(name: str) -> Glu:
    """The gated unit of an activation: act(gate) * up."""
    act = activation(name)
    if act is ops.silu:
        return swiglu
    return geglu if act is ops.gelu_tanh else lambda gate, up: act(gate) * up


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
        return self.down_proj(self._act(self.up_proj(x)))
