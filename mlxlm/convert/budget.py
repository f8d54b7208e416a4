"""Bits for each module under a budget: what rounding it costs is measured, and the bytes go where they save the most.

The cost is the second-order one: half the sum of Fisher information times squared rounding error, with the Fisher
information taken from squared gradients of the loss on a text. One pass back for the whole model.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..checkpoint.save import parameters
from ..errors import UsageError
from ..layers.dequantize import is_quantized
from .measure import sample_text, windows
from .recipes import BITS, Recipe, Setting

MOST_TOKENS = 2048
"""Of the text that is learned from; each 256 of them are one gradient."""


def solved(model: nn.Module, tokenizer: Any, recipe: Recipe, *, bits_per_weight: float | None = None,
           size: int | None = None) -> Recipe:
    """``recipe`` with measured settings that fit ``size`` bytes, or so many bits a weight of all that is stored.

    The model must be plain, and all of it and its gradients are in memory. Overrides stay what they are.
    Raises UsageError for a budget that can't be met.
    """
    if recipe.base.mode != "affine":
        raise UsageError("a budget chooses among bits, which other modes don't have", where="mode",
                         found=recipe.base.mode, expected="affine")
    modules = _choosable(model, recipe)
    budget = size if bits_per_weight is None else int(bits_per_weight * parameters(model) / 8)
    rest = _rest(model, recipe, modules)
    ladders = {path: _ladder(module, recipe.base.group_size) for path, module in modules.items()}
    room = (budget or 0) - rest - sum(_bytes(modules[path], ladder[0]) for path, ladder in ladders.items())
    if room < 0:
        raise UsageError("the budget is too small", where="budget", found=f"{budget} bytes",
                         expected=f"at least {(budget or 0) - room}")
    information = _information(model, modules, tokenizer)
    costs = {path: [_cost(modules[path], information[path], setting) for setting in ladder]
             for path, ladder in ladders.items()}
    return replace(recipe, measured=_spent(modules, ladders, costs, room))


def _choosable(model: Any, recipe: Recipe) -> dict[str, Any]:
    layers, found = len(getattr(model, "layers", ())), {}
    for path, module in model.named_modules():
        if hasattr(module, "to_quantized") and not is_quantized(module) and not recipe.overridden(path):
            wanted = recipe.setting(path, layers)
            if wanted is not None and wanted.fitting(module["weight"].shape[-1]) and not recipe.routes(path):
                found[path] = module
    return found


def _rest(model: Any, recipe: Recipe, modules: dict[str, Any]) -> int:
    """Bytes of all that the budget doesn't choose for."""
    layers, total = len(getattr(model, "layers", ())), 0
    for path, module in model.named_modules():
        for name, w in module.items():
            if not isinstance(w, mx.array) or name.startswith("_") or (path in modules and name == "weight"):
                continue
            wanted = recipe.setting(path, layers) if name == "weight" and hasattr(module, "to_quantized") else None
            setting = wanted and wanted.fitting(w.shape[-1])
            total += _bytes(module, setting) if setting else w.nbytes
    return total


def _ladder(module: Any, group_size: int) -> list[Setting]:
    fitting = [Setting(bits, group_size).fitting(module["weight"].shape[-1]) for bits in BITS["affine"]]
    return [setting for setting in fitting if setting is not None]


def _bytes(module: Any, setting: Setting) -> int:
    w = module["weight"]
    groups = w.size // setting.group_size
    extra = groups * w.dtype.size * 2 if setting.mode == "affine" else groups
    return w.size * setting.bits // 8 + extra


def _information(model: Any, modules: dict[str, Any], tokenizer: Any) -> dict[str, mx.array]:
    """Squared gradients of each module's weight, summed over the text's windows, in float32."""
    model.freeze()
    for module in modules.values():
        module.unfreeze(keys=["weight"], recurse=False)

    def loss(fed: mx.array, told: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(fed).astype(mx.float32), told, reduction="sum")

    gradient, total = nn.value_and_grad(model, loss), {}
    for fed, told in windows(tokenizer, sample_text("calibrate"), MOST_TOKENS):
        found: Any = tree_flatten(gradient(fed, told)[1])
        for name, g in found:
            squared = g.astype(mx.float32) ** 2
            total[name] = total[name] + squared if name in total else squared
        mx.eval(total)
    return {path: _spread(module, total[f"{path}.weight"]) for path, module in modules.items()}


def _spread(module: Any, information: mx.array) -> mx.array:
    """An embedding's rows that the text doesn't have are taken for as important as those it has are on average."""
    if not isinstance(module, nn.Embedding):
        return information
    rows = information.sum(-1, keepdims=True)
    met = (rows > 0).sum()
    return mx.where(rows > 0, information, information.sum() / mx.maximum(met * information.shape[-1], 1))


def _cost(module: Any, information: mx.array, setting: Setting) -> float:
    w = module["weight"]
    packed = mx.quantize(w, group_size=setting.group_size, bits=setting.bits)
    error = mx.dequantize(*packed, group_size=setting.group_size, bits=setting.bits).astype(mx.float32) - w
    return float((0.5 * information * error * error).sum().item())


def _spent(modules: dict[str, Any], ladders: dict[str, list[Setting]], costs: dict[str, list[float]],
           room: int) -> dict[str, Setting]:
    """Step by step the rise that saves the most for its bytes, as long as there is room."""
    at = dict.fromkeys(ladders, 0)

    def best(path: str) -> tuple[float, str, int] | None:
        """The best rise of a module from where it is, over any number of rungs."""
        ladder, cost, i = ladders[path], costs[path], at[path]
        rises = [((cost[j] - cost[i]) / (_bytes(modules[path], ladder[j]) - _bytes(modules[path], ladder[i])), path, j)
                 for j in range(i + 1, len(ladder))
                 if _bytes(modules[path], ladder[j]) - _bytes(modules[path], ladder[i]) <= room]
        return min(rises, default=None)

    heap = [rise for path in ladders if (rise := best(path)) is not None]
    heapq.heapify(heap)
    while heap:
        _, path, to = heapq.heappop(heap)
        price = _bytes(modules[path], ladders[path][to]) - _bytes(modules[path], ladders[path][at[path]])
        if price <= room:
            at[path], room = to, room - price
        if (rise := best(path)) is not None:
            heapq.heappush(heap, rise)
    return {path: ladders[path][i] for path, i in at.items()}
