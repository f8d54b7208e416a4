"""How large the inputs of each weight are, from one pass of a text that reads each weight once and lets go of it.

An error in a weight counts as much as what it is multiplied with, and a few inputs of a language model are many times
larger than all others: what llama.cpp calls an importance matrix.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..errors import UsageError
from ..layers.experts import SwitchLinear
from .measure import WINDOW, sample_text, windows

TOKENS = 3 * WINDOW


def importance(model: nn.Module, unread: nn.Module, tokenizer: Any) -> dict[str, mx.array]:
    """The mean square of each input (width,) of a plain ``model``'s linear layers, experts and tied head, by path.

    Each weight is changed for the one of ``unread``, the same model that nothing was computed with, as soon as it was
    used: the memory is that of one weight and of the activations. Raises UsageError for a model that can't be fed.
    """
    if not hasattr(model, "layers"):
        raise UsageError("the model has no layers that a text goes through", found=type(model).__name__)
    fed = [fed for fed, _ in windows(tokenizer, sample_text("calibrate"), TOKENS)]
    text = mx.concatenate([row for row in fed if row.shape == fed[0].shape])
    known = max((m["weight"].shape[0] for _, m in model.named_modules() if isinstance(m, nn.Embedding)), default=0)
    if (text >= known).any().item():
        raise UsageError("the tokenizer has tokens that the model lacks", expected=f"tokens below {known}")
    kernels.install(model)
    found: dict[str, mx.array] = {}
    fresh = dict(unread.named_modules())
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | SwitchLinear):
            module.__class__ = _watched(type(module), "__call__", path, found, fresh[path])
        elif isinstance(module, nn.Embedding):
            module.__class__ = _watched(type(module), "as_linear", path, found, fresh[path])
    model(text)  # the logits themselves are never computed
    return found


def _watched(kind: type, name: str, path: str, found: dict[str, mx.array], fresh: Any) -> type:
    def called(self: Any, x: mx.array, *rest: Any, **named: Any) -> mx.array:
        square = x.astype(mx.float32).square().reshape(-1, x.shape[-1]).mean(0)
        found[path] = found[path] + square if path in found else square
        mx.eval(x, found[path])  # all that came before is done with
        y = getattr(kind, name)(self, x, *rest, **named)
        self["weight"] = fresh["weight"]
        return y

    return type(kind.__name__, (kind,), {name: called})
