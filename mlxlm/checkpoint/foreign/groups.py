"""What formats in groups share: modules found by their tensors, shapes checked, groups brought to MLX's sizes."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ...errors import WeightError
from ...weights import Weights

GROUPS = (128, 64, 32)  # MLX's, largest first
FLOATS = (mx.float16, mx.bfloat16, mx.float32)
KINDS = {"float": FLOATS, "words": (mx.int32, mx.uint32), "bytes": (mx.uint8,), "int8": (mx.int8,),
         "indices": (mx.int32, mx.uint32, mx.int64, mx.uint64, mx.int16, mx.uint16)}
"""The dtypes that a tensor may have, by what it is for."""
OTHERWISE = "Look for an mlx-community conversion of the model."
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def modules(weights: Weights, marker: str) -> list[str]:
    """The paths of the modules that have a tensor ``marker``."""
    return sorted(name[: -len(marker) - 1] for name in weights if name.endswith(f".{marker}"))


def each(weights: Weights, marker: str, change: Callable[[str], Any]) -> dict[str, Any]:
    """``change(path)`` for each module with a tensor ``marker``, by path; what MLX can't do is an error about it."""
    done = {}
    for path in modules(weights, marker):
        try:
            done[path] = change(path)
        except (ValueError, IndexError, TypeError, ArithmeticError) as error:  # shapes that no check foresaw
            said = f"the quantized tensors can't be put together: {error}".splitlines()[0]
            raise WeightError(said, where=path) from error
    return done


def take(weights: Weights, name: str, dims: int | None, kind: str | None = None) -> mx.array:
    """A tensor out of ``weights``; WeightError if it is missing, has not ``dims`` axes or isn't of the ``kind``."""
    if name not in weights:
        raise WeightError("a tensor of a quantized module is missing", where=name,
                          hint="The download may be incomplete: pull the model again.")
    tensor = weights.pop(name)
    if dims is not None and tensor.ndim != dims:
        raise WeightError("a tensor of a quantized module is misshapen", where=name, found=tuple(tensor.shape),
                          expected=f"{dims} axes")
    return tensor if kind is None else typed(name, tensor, kind)


def typed(name: str, tensor: mx.array, kind: str) -> mx.array:
    """The tensor; WeightError if it isn't of the ``kind``, a key of KINDS."""
    if tensor.dtype not in KINDS[kind]:
        raise WeightError("a tensor of a quantized module has the wrong dtype", where=name, found=_name(tensor.dtype),
                          expected=" or ".join(map(_name, KINDS[kind])))
    return tensor


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def order_of(name: str, order: mx.array, width: int, count: int) -> np.ndarray:
    """The group of each input, checked. Raises WeightError for a group that isn't there."""
    found = np.array(typed(name, order, "indices"))
    if found.shape != (width,) or found.min(initial=0) < 0 or found.max(initial=0) >= count:
        raise WeightError("it doesn't say which group each input is in", where=name,
                          found=f"{tuple(found.shape)} numbers, the largest {found.max(initial=0)}",
                          expected=f"{width} numbers below {count}")
    return found


def group_size(width: int, groups: int, name: str) -> int:
    """MLX's group size for rows of ``width`` that have so many groups: theirs, or one that divides it."""
    if groups < 1 or width % groups:
        raise WeightError("the groups don't divide the rows", where=name, found=f"{groups} groups of {width} numbers")
    theirs = width // groups
    fitting = next((g for g in GROUPS if theirs % g == 0), None)
    if fitting is None:
        raise WeightError("MLX has no groups of this size", where=name, found=theirs, expected="a multiple of 32",
                          hint=OTHERWISE)
    return fitting


def repeated(scales: mx.array, width: int, size: int) -> mx.array:
    """(out, groups) for groups of ``size``: a larger group's value stands for each part of it."""
    times = width // size // scales.shape[-1]
    return mx.repeat(scales, times, axis=-1) if times > 1 else scales


def expect(shape: tuple[int, ...], expected: tuple[int, ...], name: str) -> None:
    """WeightError unless two shapes agree."""
    if tuple(shape) != expected:
        raise WeightError("a tensor of a quantized module is misshapen", where=name, found=tuple(shape),
                          expected=expected)


def quantization(weights: Weights, bits: int | dict[str, int], usual: Any = None) -> dict[str, Any]:
    """The ``quantization`` of repacked modules: one setting, and a row for each module whose scales say another.

    ``bits`` are those of all, or of each by its path. ``usual`` is the checkpoint's own group size, taken where MLX has
    it.
    """
    size = usual if usual in GROUPS else 128
    common = bits if isinstance(bits, int) else max(bits.values(), key=list(bits.values()).count)
    settings: dict[str, Any] = {"group_size": size, "bits": common, "mode": "affine"}
    for path in modules(weights, "scales"):
        if f"{path}.weight" not in weights:
            raise WeightError("scales without the codes that they belong to", where=f"{path}.scales",
                              hint="The download may be incomplete: pull the model again.")
        each = bits if isinstance(bits, int) else bits.get(path, common)
        own = weights[f"{path}.weight"].shape[-1] * 32 // each // weights[f"{path}.scales"].shape[-1]
        if (own, each) != (size, common):
            settings[path] = {"group_size": own, "bits": each}
    return settings
