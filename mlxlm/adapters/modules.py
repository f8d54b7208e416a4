"""A module with adapters on it: its own result, and what each of them adds; its weights stay as they are stored."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import WeightError
from ..kernels import ops
from ..layers.dequantize import is_quantized, plain, plain_weight
from .files import LowRank


class Part(nn.Module):
    """What one adapter adds to one module. ``strength`` scales all of it; ``factor`` (out,) is how much DoRA lengthens
    each row of the changed weight."""

    def __init__(self, low: LowRank, base: nn.Module, strength: float):
        super().__init__()
        self.a, self.b = low.a, low.b
        self.scale, self.head = low.scale, low.head
        self.strength = mx.array(strength)  # an array, so that what tells models apart by their arrays sees it
        if low.magnitude is not None:
            changed = plain_weight(base).astype(mx.float32) + self.change()
            self.factor = low.magnitude / mx.linalg.norm(changed, axis=-1)
        self.freeze()

    def change(self) -> mx.array:
        """scale * b @ a in float32, before any lengthening."""
        return self.scale * (self.b.astype(mx.float32) @ self.a.astype(mx.float32))

    def added(self, w: mx.array) -> mx.array:
        """What the weight ``w`` (float32) gains."""
        gain = self.change()
        if "factor" in self:
            gain = self.factor[:, None] * (w + gain) - w
        return self.strength * gain

    def gain(self, plain: mx.array, low: mx.array, factor: mx.array | None) -> mx.array:
        """What a result gains, from the module's own without bias and from the two factors' product with the input."""
        low = self.scale * low
        if factor is not None:
            low = (factor - 1) * plain + factor * low
        return (self.strength * low).astype(plain.dtype)


class Adapted(nn.Module):
    """``base`` and the adapters on it, by name."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base
        self.parts: dict[str, Part] = {}

    @property
    def weight(self) -> mx.array:
        """The weight with all that is added to it, for models that take it from their modules."""
        return self._sum()

    @property
    def bias(self) -> mx.array:
        return self.base["bias"]

    def __contains__(self, key: object) -> bool:
        return (key == "bias" and "bias" in self["base"]) or dict.__contains__(self, key)

    def _sum(self) -> mx.array:
        w = plain_weight(self.base)
        wide = w.astype(mx.float32)
        return (wide + sum(part.added(wide) for part in self.parts.values())).astype(w.dtype)

    def fused(self, dequantize: bool = False) -> nn.Module:
        """One module with the sum for its weight, of the base's own kind and setting, or plain."""
        base: Any = self.base
        w = self._sum()
        made: Any = plain(base) if dequantize and is_quantized(base) else copy.copy(base)
        if made is None:
            raise WeightError("this kind of quantized module can't be made plain", found=type(base).__name__)
        if not is_quantized(made):
            made["weight"] = w
            return made
        made["weight"], made["scales"], *biases = mx.quantize(
            w, group_size=base.group_size, bits=base.bits, mode=base.mode)
        if biases:
            made["biases"] = biases[0]
        return made


class AdaptedLinear(Adapted):
    """A linear layer with adapters."""

    def __call__(self, x: mx.array) -> mx.array:
        y = self.base(x)
        return _with_all(self.parts, y, y - self.base["bias"] if "bias" in self.base else y, x)


class AdaptedEmbedding(Adapted):
    """An embedding with adapters; ``as_linear`` is the head that is tied to it."""

    def __call__(self, tokens: mx.array) -> mx.array:
        own = y = self.base(tokens)
        for part in self.parts.values():
            factor = part.factor[tokens][..., None] if "factor" in part else None
            y = y + part.gain(own, part.b[tokens] @ part.a, factor)
        return y

    def as_linear(self, x: mx.array) -> mx.array:
        """x (..., dim) to (..., tokens)."""
        base: Any = self.base
        y = base.as_linear(x)
        return _with_all({name: part for name, part in self.parts.items() if part.head}, y, y, x)


class AdaptedSwitch(Adapted):
    """A linear layer with an expert axis, and adapters that have one too."""

    def __call__(self, x: mx.array, picks: mx.array, sorted_indices: bool = False) -> mx.array:
        base: Any = self.base
        y = base(x, picks, sorted_indices)
        for part in self.parts.values():
            low = x
            for factor in (part.a, part.b):
                low = mx.gather_mm(low, factor.swapaxes(-1, -2).astype(low.dtype), rhs_indices=picks,
                                   sorted_indices=sorted_indices)
            y = y + part.gain(y, low, None)
        return y


def _with_all(parts: dict[str, Part], y: mx.array, plain: mx.array, x: mx.array) -> mx.array:
    for part in parts.values():
        y = y + part.gain(plain, ops.linear(ops.linear(x, part.a), part.b), part.get("factor"))
    return y


def kind_of(module: Any) -> type[Adapted] | None:
    """The adapted kind of a module, or None for one that takes no adapter."""
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        return AdaptedEmbedding
    if isinstance(module, nn.Linear | nn.QuantizedLinear):
        return AdaptedLinear
    # mlx-lm's own modules too, which are no subclasses of ours.
    return AdaptedSwitch if type(module).__name__ in ("SwitchLinear", "QuantizedSwitchLinear") else None
