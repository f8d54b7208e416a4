"""The operations under the layers: plain ``mx``, or our own kernels on a CPU, behind one set of names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlx.nn as nn


def in_force() -> dict[str, Any]:
    """What runs the operations here: ``native`` (bool), ``instruction_set``, ``threads`` and the ``reason``."""
    from mlxlm.kernels.choice import CHOICE

    native = CHOICE.module is not None
    return {
        "native": native,
        "instruction_set": CHOICE.instruction_set,
        "threads": CHOICE.module.threads() if CHOICE.module is not None else None,
        "reason": CHOICE.reason,
    }


def keeps_narrow_scales() -> bool:
    """Whether our kernels read float16 scales as they are (see `mlxlm.kernels.scales`) and are the faster for it.

    The scalar ones convert them number by number, which costs more than reading float32.
    """
    from mlxlm.kernels.choice import CHOICE

    return CHOICE.instruction_set not in (None, "scalar")


def install(model: nn.Module) -> int:
    """Prepares a loaded model for this machine; returns how many modules now run on our kernels (0 where those are
    not in force). On a CPU backend ``mx.compile`` is turned off for the process."""
    from mlxlm.kernels.choice import CHOICE
    from mlxlm.kernels.compile import no_compile_on_cpu

    no_compile_on_cpu()
    from mlxlm.kernels.scales import widen

    count = 0
    if CHOICE.module is not None:
        from mlxlm.kernels.modules import swap_classes

        count = swap_classes(model)
    widen(model, kept=keeps_narrow_scales())
    return count


def settle(model: nn.Module) -> None:
    """Has weights lie as our kernels read them fastest, where these are in force: in large pages, and row by row where
    they were turned or thinned out when they were renamed. What has to move is copied when it is first needed."""
    from mlxlm.kernels.pages import settle

    settle(model)
