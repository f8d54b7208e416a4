"""A model's modules into quantized ones and back, without computing anything: MLX does that as they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import MLXLMError
from ..layers.dequantize import is_quantized as in_groups
from ..layers.dequantize import plain
from ..piecewise import by_rows
from .fit import fitted
from .recipes import Recipe, Setting

ROWS = 1 << 24
"""Numbers that are quantized at a time."""


def quantize(model: nn.Module, recipe: Recipe, only: Callable[[str, Any], bool] | None = None) -> dict[str, Setting]:
    """Quantizes the modules that the recipe names and MLX can take; returns what each became.

    ``only`` tells of a path and its module whether it is to be looked at.
    """
    layers, done, weights = len(getattr(model, "layers", ())), {}, {}

    def chosen(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or "scales" in module or (only and not only(path, module)):
            return False
        wanted = recipe.setting(path, layers)
        setting = wanted.fitting(module["weight"].shape[-1]) if wanted is not None else None
        if setting is None:
            return False
        done[path], weights[path] = setting, module["weight"]
        return setting.as_dict()

    try:
        nn.quantize(model, class_predicate=chosen)
    except (ValueError, TypeError) as error:
        raise MLXLMError(f"MLX can't quantize this model: {error}".splitlines()[0]) from error
    for path, module in model.named_modules():
        if path in done:
            _fill(module, weights.pop(path), done[path], recipe.fit)
    return done


def _fill(module: Any, w: mx.array, setting: Setting, fit: bool) -> None:
    """What stands for ``w`` in a quantized module, made some rows at a time: what bounds the memory."""
    if fit and setting.mode == "affine":
        made: tuple[mx.array, ...] = fitted(w, setting.bits, setting.group_size)
    else:
        made = by_rows(w, lambda rows: tuple(mx.quantize(rows, **setting.as_dict())), ROWS)
    for name, part in zip(("weight", "scales", "biases"), made, strict=False):
        module[name] = part


def dequantize(model: nn.Module, dtype: mx.Dtype | None = None) -> int:
    """Turns every quantized module into its plain kind, with the scales' dtype or ``dtype``; returns how many."""
    made = [(path, m) for path, module in model.named_modules() if (m := plain(module, dtype)) is not None]
    if made:
        model.update_modules(tree_unflatten(made))
    return len(made)


def is_quantized(model: nn.Module) -> bool:
    """Whether any module is stored in groups with scales."""
    return any(in_groups(module) for _, module in model.named_modules())
