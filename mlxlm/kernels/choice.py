"""Whether our CPU kernels are in force in this process, decided once, and why not where they aren't."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import mlx.core as mx

from mlxlm.errors import UsageError

VARIABLE = "MLXLM_KERNELS"
INSTRUCTION_SETS = ("scalar", "avx2", "avx512", "avx512bf16")
# What an extension must offer; one that was built before the newest of these is as good as none.
OPERATIONS = ("BlockShape", "argmax", "attention", "block", "causal_conv", "conv2d", "delta_scan", "experts_step",
              "gather_mm", "gather_qmm", "geglu", "gelu", "gelu_tanh", "layer_norm", "linear", "make_stack", "matmul",
              "packed_attention", "quantized_embedding", "quantized_linear", "quantized_matmul", "quick_gelu", "read",
              "relu2", "rms_norm", "rope", "route", "selective_scan", "settle", "silu", "ssm_scan", "stack", "swiglu",
              "takes_bytes", "unchanged")


@dataclass(frozen=True)
class Choice:
    """The extension module in force and its instruction set, or None for both and the reason."""

    module: ModuleType | None
    instruction_set: str | None
    reason: str


def _none(reason: str) -> Choice:
    return Choice(None, None, reason)


def choose() -> Choice:
    """Loads the extension where it fits this machine, this MLX and the user's wish in ``MLXLM_KERNELS``."""
    wish = os.environ.get(VARIABLE, "").strip().lower()
    if wish == "off":
        return _none(f"{VARIABLE}=off")
    if wish and wish not in INSTRUCTION_SETS:
        raise UsageError("not a set of kernels", where=VARIABLE, found=repr(wish),
                         expected=", ".join(("off", *INSTRUCTION_SETS)))
    if platform.system() != "Linux":
        return _none("they are built on Linux only")
    if mx.default_device() != mx.Device(mx.cpu, 0):
        return _none("MLX runs on a GPU")
    try:
        module = import_module("mlxlm.kernels._cpu")
    except ImportError as error:
        return _none(f"the extension is not built ({error})")
    return _checked(module, wish)


def _checked(module: ModuleType, wish: str) -> Choice:
    # MLX's C++ interface changes between patch releases: a mismatch would crash, not fail.
    running = mx.__version__  # pyright: ignore[reportAttributeAccessIssue]
    lacking = [name for name in OPERATIONS if not hasattr(module, name)]
    if module.mlx_version != running or lacking:
        reason = f"they were compiled for mlx {module.mlx_version}, and mlx {running} is installed"
        if module.mlx_version == running:
            reason = f"they were built from an older source, without {', '.join(lacking)}"
        warnings.warn(f"mlxlm runs without its CPU kernels: {reason}. Reinstalling mlxlm builds them anew.",
                      RuntimeWarning, stacklevel=2)
        return _none(reason)
    instruction_set = module.choose(wish)
    if instruction_set is None:
        raise UsageError("this machine's processor lacks that instruction set", where=VARIABLE, found=wish,
                         hint="Leave the variable unset to use the best one.")
    return Choice(module, instruction_set, f"{VARIABLE}={wish}" if wish else "the best this processor has")


CHOICE = choose()
