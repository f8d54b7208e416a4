"""Activations of prompts in 8 bits: a choice of the user's, by which a CPU reads them faster, a little less exactly.

A quantized linear then rounds its input, where that has more than eight positions: each 32 numbers of a row become
integers q = round(127 x / m), m being the largest |x| of them, and stand for m q / 127. Sums of integers are exact, and
these are summed in float32. A row with an infinity or a NaN gives NaN throughout.
Decoding, embeddings, heads tied to them, attention, experts and weights that aren't quantized keep activations as they
are, and so do mxfp8 and nvfp4 weights, for which rounding would not be faster.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    import mlx.nn as nn

CHOICES = ("int8",)
EXACT_MODES = ("mxfp8", "nvfp4")


def check(activations: str | None) -> None:
    """Raises UsageError for what isn't a choice; None asks for activations as they are."""
    if activations is not None and activations not in CHOICES:
        raise UsageError("no such activations", where="activations", found=repr(activations),
                         expected=f"{', '.join(CHOICES)}, or nothing for activations as they are")


def choose(model: nn.Module, activations: str | None) -> int:
    """Has the quantized linears of an installed model round the activations of prompts; returns how many will.

    It is for a model that has not run yet. Where none can, a warning says why, and all is computed as without.
    Raises UsageError as `check`.
    """
    check(activations)
    if activations is None:
        return 0
    why = _why_not()
    fit = [module for _, module in model.named_modules() if _takes(module)] if not why else []
    if not fit:
        why = why or "no linear of this model is quantized in a mode that gains by it (`mlxlm convert -q` makes one)"
        warnings.warn(f"activations={activations!r} changes nothing here: {why}. Prompts are read with activations as "
                      "they are; leave the choice out to be rid of this warning.", stacklevel=3)
    for module in fit:
        module.int8 = True
    return len(fit)


def _takes(module: Any) -> bool:
    from .modules import QuantizedLinear

    return type(module) is QuantizedLinear and module.mode not in EXACT_MODES


def _why_not() -> str | None:
    from .choice import CHOICE

    if CHOICE.module is None:
        return f"it is for mlxlm's CPU kernels, which are not in force ({CHOICE.reason})"
    if not CHOICE.module.takes_bytes():
        return f"the kernels for this processor ({CHOICE.instruction_set}) have no faster way for it"
    return None
