"""Where an adapter's parts belong in a model: the checkpoint's own rules for names and layout bring them there.

The factor b has the rows of a weight, so it goes through the rules as one. A column of numbers goes with it and tells
afterwards from which module each row came: that is how parts that the rules split, join or stack find their factor a.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import WeightError
from ..layers.dequantize import is_quantized
from ..weights import Weights, apply, rename_path
from .files import Adapter, LowRank, embedded
from .modules import Adapted, AdaptedEmbedding, kind_of


def placed(model: nn.Module, adapter: Adapter) -> dict[str, LowRank]:
    """Parts by the paths of the model's modules. Raises WeightError for one that fits none."""
    modules = dict(model.named_modules())
    parts = [_turned(model, modules, part, adapter) for part in adapter.parts.values()]
    rows = _moved(model, adapter, {f"{p.name}.weight": p.b.T if p.turned else p.b for p in parts})
    marks = _moved(model, adapter, {f"{p.name}.weight": _mark(p, i) for i, p in enumerate(parts)})
    lengths = _moved(model, adapter, {f"{p.name}.bias": p.magnitude for p in parts if p.magnitude is not None})
    found: dict[str, LowRank] = {}
    for name, b in rows.items():
        path = name.removesuffix(".weight")
        part = _joined(parts, b, marks[name], lengths.get(f"{path}.bias"))
        _check(modules.get(path), part, path, adapter)
        found[path] = part
    return found


def _mark(part: LowRank, number: int) -> mx.array:
    shape = (1, part.b.shape[0]) if part.turned else (*part.b.shape[:-1], 1)
    return mx.full(shape, number, mx.int32)


def _turned(model: Any, modules: dict[str, Any], part: LowRank, adapter: Adapter) -> LowRank:
    """mlx-lm's factors don't tell of which kind their module is."""
    if adapter.hugging_face or part.a.ndim == 3:
        return part
    path = rename_path(_rules(model, adapter), part.name, getattr(model, "config", None))[0]
    module = modules.get(path)
    return embedded(part) if kind_of(getattr(module, "base", module)) is AdaptedEmbedding else part


def _rules(model: Any, adapter: Adapter) -> tuple:
    architecture = getattr(model, "architecture", None)
    if architecture is None or architecture.config is dict:
        return ()
    return (*architecture.names, *(architecture.values if adapter.hugging_face else ()))


def _moved(model: Any, adapter: Adapter, tensors: Weights) -> Weights:
    try:
        return apply(_rules(model, adapter), tensors, getattr(model, "config", None))
    except WeightError as error:
        raise WeightError(f"the adapter doesn't fit the model ({error})", where=adapter.file) from error
    except ValueError as error:
        raise WeightError(f"the adapter's tensors can't be brought to the model's layout ({error})",
                          where=adapter.file) from error


def _joined(parts: list[LowRank], b: mx.array, marks: mx.array, magnitude: mx.array | None) -> LowRank:
    """One part of those that a module's rows came from."""
    numbers: list[int] = list(dict.fromkeys(marks.flatten().tolist()))  # type: ignore[arg-type]
    used = [parts[i] for i in numbers]
    first = replace(used[0], b=b, magnitude=magnitude)
    if len(used) == 1:
        return first
    if len({part.scale for part in used}) > 1:  # the differences go into b
        scales = mx.array([part.scale for part in parts])
        b, first = b.astype(mx.float32) * scales[marks], replace(first, scale=1.0)
    if b.ndim == 3:
        return replace(first, a=mx.stack([parts[i].a for i in marks[:, 0, 0].tolist()]), b=b)  # type: ignore
    apart = mx.concatenate([mx.where(marks == i, b, 0) for i in numbers], axis=-1)
    return replace(first, a=mx.concatenate([part.a for part in used], axis=0), b=apart)


def _check(module: Any, part: LowRank, path: str, adapter: Adapter) -> None:
    where = f"{adapter.file}: {part.name}"
    if module is None:
        raise WeightError("the model has no such module", where=where, found=path,
                          hint="The adapter was made for another model.")
    base = module.base if isinstance(module, Adapted) else module
    kind = kind_of(base)
    if kind is None:
        raise WeightError("this module takes no adapter", where=where, found=type(base).__name__,
                          expected="a linear layer, an embedding or experts")
    shape = base["weight"].shape
    if is_quantized(base):
        shape = (*shape[:-1], shape[-1] * 32 // base.bits)
    given = (*part.b.shape[:-1], part.a.shape[-1])
    if given != tuple(shape):
        raise WeightError("the adapter's tensors have another shape than the model's", where=where, found=given,
                          expected=tuple(shape), hint="The adapter was made for another model.")
    if part.magnitude is not None and (part.magnitude.shape != shape[:1] or part.b.ndim == 3):
        raise WeightError("DoRA's magnitude has another shape than the model's rows", where=where,
                          found=tuple(part.magnitude.shape), expected=tuple(shape[:1]))


def replaced(model: nn.Module, adapter: Adapter) -> Weights:
    """Whole tensors by the names of the model's parameters. Raises WeightError for one that fits none."""
    moved = _moved(model, adapter, adapter.whole)
    own: dict[str, Any] = dict(tree_flatten(model.parameters()))
    quantized = {path for path, module in model.named_modules() if is_quantized(module)}
    for name, w in moved.items():
        where = f"{adapter.file}: {name}"
        if name not in own:
            raise WeightError("the model has no such tensor", where=where,
                              hint="The adapter was made for another model.")
        if name.rpartition(".")[0] in quantized and name.endswith(".weight") and w.dtype != mx.uint32:
            raise WeightError("the adapter brings a whole weight, and the model's is quantized", where=where,
                              hint="Fuse it into the model that isn't quantized.")
        if w.shape != own[name].shape:
            raise WeightError("the tensor has another shape than the model's", where=where, found=tuple(w.shape),
                              expected=tuple(own[name].shape))
    return moved
