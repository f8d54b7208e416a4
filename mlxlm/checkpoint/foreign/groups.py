"""What formats in groups share: modules found by their tensors, shapes checked, groups brought to MLX's sizes."""

from typing import Any

import mlx.core as mx

from ...errors import WeightError
from ...weights import Weights

GROUPS = (128, 64, 32)  # MLX's, largest first
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def modules(weights: Weights, marker: str) -> list[str]:
    """The paths of the modules that have a tensor ``marker``."""
    return sorted(name[: -len(marker) - 1] for name in weights if name.endswith(f".{marker}"))


def take(weights: Weights, name: str, dims: int) -> mx.array:
    """A tensor out of ``weights``; WeightError if it is missing or has another number of axes."""
    if name not in weights:
        raise WeightError("a tensor of a quantized module is missing", where=name,
                          hint="The download may be incomplete: pull the model again.")
    tensor = weights.pop(name)
    if tensor.ndim != dims:
        raise WeightError("a tensor of a quantized module is misshapen", where=name, found=tuple(tensor.shape),
                          expected=f"{dims} axes")
    return tensor


def group_size(width: int, groups: int, name: str) -> int:
    """MLX's group size for rows of ``width`` that have so many groups: theirs, or one that divides it."""
    if groups < 1 or width % groups:
        raise WeightError("the groups don't divide the rows", where=name, found=f"{groups} groups of {width} numbers")
    theirs = width // groups
    fitting = next((g for g in GROUPS if theirs % g == 0), None)
    if fitting is None:
        raise WeightError("MLX has no groups of this size", where=name, found=theirs, expected="a multiple of 32",
                          hint="Look for an mlx-community conversion of the model.")
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


def quantization(weights: Weights, bits: int, usual: Any = None) -> dict[str, Any]:
    """The ``quantization`` of repacked modules: one group size, and a row for each module whose scales say another.

    ``usual`` is the checkpoint's own group size, taken where MLX has it.
    """
    size = usual if usual in GROUPS else 128
    settings: dict[str, Any] = {"group_size": size, "bits": bits, "mode": "affine"}
    for path in modules(weights, "scales"):
        own = weights[f"{path}.weight"].shape[-1] * 32 // bits // weights[f"{path}.scales"].shape[-1]
        if own != size:
            settings[path] = {"group_size": own, "bits": bits}
    return settings
