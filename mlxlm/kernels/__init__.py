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
    """Reads a model's weights. Where our kernels are in force, matrices that were turned or thinned out when they were
    renamed are laid out row by row, one after the other: a kernel goes straight on."""
    import mlx.core as mx

    from mlxlm.kernels.choice import CHOICE

    mx.eval(model.parameters())
    if CHOICE.module is None:
        return
    for _, module in model.named_modules():
        for name, w in module.items():
            if isinstance(w, mx.array) and w.ndim > 1 and w.size:
                row = w.shape[-1] * w.itemsize
                seen: Any = memoryview(w)  # pyright: ignore[reportArgumentType]
                if seen.strides[-2:] != (row, w.itemsize):
                    module[name] = mx.contiguous(w)
                    mx.eval(module[name])
