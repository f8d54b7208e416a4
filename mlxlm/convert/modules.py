"""A model's modules into quantized ones and back, without computing anything: MLX does that as they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import MLXLMError
from ..layers.dequantize import is_quantized as in_groups
from ..layers.dequantize import plain
from ..piecewise import by_rows
from .fit import evened, fitted
from .recipes import HEADS, Recipe, Setting

ROWS = 1 << 24
"""Numbers that are quantized at a time."""


def quantize(model: nn.Module, recipe: Recipe, only: Callable[[str, Any], bool] | None = None,
             importance: Mapping[str, mx.array] | None = None) -> dict[str, Setting]:
    """Quantizes the modules that the recipe names and MLX can take; returns what each became.

    ``only`` tells of a path and its module whether it is to be looked at. ``importance`` has the mean squares of the
    inputs of some modules, by path: what scales are fitted by.
    """
    layers, done, weights = len(getattr(model, "layers", ())), {}, {}

    def chosen(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or "scales" in module or (only and not only(path, module)):
            return False
        wanted = recipe.setting(path, layers)
        setting = wanted.fitting(module["weight"].shape[-1]) if wanted is not None else None
        if setting is None or module["weight"].size % 32:  # MLX packs whole matrices by 32 numbers, nvfp4's too
            return False
        done[path], weights[path] = setting, module["weight"]
        return setting.as_dict()

    try:
        nn.quantize(model, class_predicate=chosen)
    except (ValueError, TypeError) as error:
        raise MLXLMError(f"MLX can't quantize this model: {error}".splitlines()[0]) from error
    for path, module in model.named_modules():
        if path in done:
            w = weights.pop(path)
            if recipe.fit and done[path].mode == "affine":
                counts = (importance or {}).get(path)
                made = fitted(w, done[path].bits, done[path].group_size, _guessed(path, module, w, counts))
            else:
                made = _rounded(w, done[path])
            module.update(dict(zip(("weight", "scales", "biases"), made, strict=False)))
    return done


def _rounded(w: mx.array, setting: Setting) -> tuple[mx.array, ...]:
    """MLX's own quantization, some rows at a time: what bounds the memory."""
    return by_rows(w, lambda rows: tuple(mx.quantize(rows, **setting.as_dict())), ROWS)


def _guessed(path: str, module: nn.Module, w: mx.array, counts: mx.array | None) -> mx.array | None:
    """How much each input counts where nothing was measured. What an embedding or a head holds for a token is large
    where it matters, so there the numbers' own sizes tell."""
    head = isinstance(module, nn.QuantizedEmbedding) or path.rpartition(".")[2] in HEADS
    return evened(w) if counts is None and not head else counts


def dequantize(model: nn.Module, dtype: mx.Dtype | None = None) -> int:
    """Turns every quantized module into its plain kind, with the scales' dtype or ``dtype``; returns how many."""
    made = [(path, m) for path, module in model.named_modules() if (m := plain(module, dtype)) is not None]
    if made:
        model.update_modules(tree_unflatten(made))
    return len(made)


def is_quantized(model: nn.Module) -> bool:
    """Whether any module is stored in groups with scales."""
    return any(in_groups(module) for _, module in model.named_modules())
