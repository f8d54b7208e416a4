"""Whether this machine and this installation are in order: facts, real operations against numpy, and real speeds."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np

from .data import data_file, read_toml
from .errors import MLXLMError

PACKAGES = ("mlxlm", "mlx", "mlx-cpu", "mlx-metal", "mlx-cuda-13", "mlx-cuda-12", "numpy", "tokenizers", "jinja2",
            "huggingface_hub", "gguf", "llguidance", "pillow", "av", "mlx-lm", "mlx-vlm", "transformers", "torch")
TOLERANCES = {"cpu": 1e-4, "gpu": 5e-3}
"""The largest error of an operation in float32, as a part of the result's largest value: GPUs round products."""

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; a problem comes with what to do about it."""

    topic: str
    name: str
    state: State
    said: str
    hint: str | None = None


def examine(speeds: bool = True) -> Iterator[Finding]:
    """Every finding, in order; ``speeds`` measures bandwidth and arithmetic too (about a second)."""
    yield from _machine()
    yield from _packages()
    yield from _kernels()
    for name, check in OPERATIONS.items():
        yield _operation(name, check)
    yield from _places()
    if speeds:
        yield from _speeds()


def _machine() -> Iterator[Finding]:
    from .files import size
    from .info import memory_there

    there, device = memory_there()
    python = f"Python {platform.python_version()}"
    yield Finding("machine", "system", "ok", f"{platform.system()} {platform.machine()}, {python}")
    yield Finding("machine", "device", "ok", f"{mx.default_device().type.name.upper()}: {device}")
    yield Finding("machine", "memory", "ok", f"{size(there)} for models")
    if hasattr(os, "sched_getaffinity"):
        yield Finding("machine", "cores", "ok", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} for this process")
    if platform.system() == "Darwin" and platform.machine() != "arm64":
        yield Finding("machine", "python", "problem", "this Python runs translated, without the GPU",
                      "Install a Python built for arm64.")
    nvidia = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if nvidia and mx.default_device().type != mx.DeviceType.gpu:
        yield Finding("machine", "nvidia", "problem", "there is an NVIDIA GPU, and MLX doesn't use it",
                      "Run: pip install 'mlxlm[cuda]'")


def _packages() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    yield Finding("packages", "versions", "ok", ", ".join(f"{name} {version}" for name, version in installed.items()))
    for row in read_toml(data_file("known_bad.toml"))["package"]:
        version = installed.get(row["name"])
        if version is not None and SpecifierSet(row["versions"]).contains(version, prereleases=True):
            yield Finding("packages", row["name"], "note", f"{version}: {row['problem']}", row["hint"])
    yield from _unmet(installed)


def _unmet(installed: dict[str, str]) -> Iterator[Finding]:
    """What mlxlm's own metadata asks for, and this environment lacks."""
    from packaging.requirements import Requirement

    for text in metadata.requires("mlxlm") or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not need.specifier.contains(version, prereleases=True):
            yield Finding("packages", need.name, "problem", f"{version or 'missing'}; mlxlm needs {need.specifier}",
                          f"Run: pip install '{need.name}{need.specifier}'")


def _kernels() -> Iterator[Finding]:
    from .kernels import in_force

    facts = in_force()
    if facts["native"]:
        yield Finding("kernels", "CPU kernels", "ok", f"{facts['instruction_set']}, {facts['threads']} threads")
        return
    wanted = platform.system() == "Linux" and mx.default_device().type != mx.DeviceType.gpu
    by_wish = os.environ.get("MLXLM_KERNELS", "").lower() == "off"
    bad = wanted and not by_wish
    yield Finding("kernels", "CPU kernels", "problem" if bad else "ok", f"plain MLX: {facts['reason']}",
                  "Install a C++ compiler (Debian: apt install g++), then mlxlm again." if bad else None)


def _places() -> Iterator[Finding]:
    from .sources import hub, wheels

    for name, folder in (("hub cache", hub.cache_folder()), ("wheel cache", wheels.cache_folder())):
        there = folder
        while not there.exists():
            there = there.parent
        free = f"{folder}, {shutil.disk_usage(there).free / 1e9:.0f} GB free"
        if os.access(there, os.W_OK):
            yield Finding("places", name, "ok", free)
        else:
            yield Finding("places", name, "problem", f"{free}, not writable",
                          "Set HF_HOME and MLXLM_CACHE to folders that you may write.")
    if os.environ.get("HF_TOKEN") or hub.cache_folder().parent.joinpath("token").is_file():
        yield Finding("places", "hub login", "ok", "there")
    else:
        yield Finding("places", "hub login", "note", "none: gated models are closed",
                      "Log in with `hf auth login`, or set HF_TOKEN.")


def _speeds() -> Iterator[Finding]:
    from .kernels import ops

    rows = 16384
    weight = mx.random.normal((rows, 2048))
    one, many = mx.random.normal((1, 2048)), mx.random.normal((512, 2048))
    mx.eval(weight, one, many)
    seconds = _best(lambda: ops.linear(one, weight))
    yield Finding("speed", "reading memory", "ok", f"{weight.nbytes / seconds / 1e9:.1f} GB/s in a float32 product")
    seconds = _best(lambda: ops.linear(many, weight[:4096]))
    yield Finding("speed", "arithmetic", "ok", f"{2 * 512 * 2048 * 4096 / seconds / 1e9:.0f} GFLOP/s in float32")


def _best(work: Callable[[], mx.array], times: int = 5) -> float:
    """Seconds of the fastest of some runs, after one to warm up."""
    mx.eval(work())
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        mx.eval(work())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _operation(name: str, check: Callable[[], tuple[mx.array, np.ndarray]]) -> Finding:
    try:
        got, wanted = check()
        error = float(np.abs(np.array(got.astype(mx.float32)) - wanted).max() / np.abs(wanted).max())
    except (MLXLMError, RuntimeError, ValueError) as problem:
        return Finding("operations", name, "problem", f"it fails: {problem}", _REINSTALL)
    good = error < TOLERANCES[mx.default_device().type.name]
    state: State = "ok" if good else "problem"
    return Finding("operations", name, state, f"largest error {error:.1e}", None if good else _REINSTALL)


_REINSTALL = "Install mlxlm again; until then MLXLM_KERNELS=off may help."


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def _as_mx(a: np.ndarray) -> mx.array:
    return mx.array(a.astype(np.float32))


def _linear():
    from .kernels import ops

    x, w, b = _random(5, 64), _random(48, 64), _random(48)
    return ops.linear(_as_mx(x), _as_mx(w), _as_mx(b)), x @ w.T + b


def _quantized(bits: int, group: int, mode: str):
    def check():
        from .kernels import ops

        x, w = _random(3, 256), _random(32, 256)
        packed = mx.quantize(_as_mx(w), group_size=group, bits=bits, mode=mode)
        plain = mx.dequantize(*packed, group_size=group, bits=bits, mode=mode).astype(mx.float32)
        got = ops.quantized_linear(_as_mx(x), *packed, group_size=group, bits=bits, mode=mode)
        return got, x @ np.array(plain).astype(np.float64).T

    return check


def _rms_norm():
    from .kernels import ops

    x, w = _random(4, 96), _random(96)
    return ops.rms_norm(_as_mx(x), _as_mx(w), 1e-6), x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w


def _layer_norm():
    from .kernels import ops

    x, w, b = _random(4, 96), _random(96), _random(96)
    centred = x - x.mean(-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w + b
    return ops.layer_norm(_as_mx(x), _as_mx(w), _as_mx(b), 1e-5), wanted


def _rope():
    from .kernels import ops

    x, offset = _random(1, 2, 7, 16), 3
    angles = np.outer(np.arange(7) + offset, 10000.0 ** (-np.arange(8) / 8))
    first, second = x[..., :8], x[..., 8:]
    cos, sin = np.cos(angles), np.sin(angles)
    wanted = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return ops.rope(_as_mx(x), 16, traditional=False, base=10000.0, scale=1.0, offset=offset), wanted


def _attention():
    from .kernels import ops

    q, k, v = _random(1, 4, 9, 32), _random(1, 2, 9, 32), _random(1, 2, 9, 32)
    scores = q @ np.repeat(k, 2, 1).swapaxes(-1, -2) / np.sqrt(32)
    scores = np.where(np.tril(np.ones((9, 9), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ np.repeat(v, 2, 1)
    return ops.attention(_as_mx(q), _as_mx(k), _as_mx(v), scale=32**-0.5, mask="causal"), wanted


def _swiglu():
    from .kernels import ops

    gate, up = _random(3, 40), _random(3, 41)[:, :40]
    return ops.swiglu(_as_mx(gate), _as_mx(up)), gate / (1 + np.exp(-gate)) * up


def _experts():
    from .kernels import ops

    x, w, chosen = _random(6, 1, 32), _random(4, 16, 32), np.array([0, 3, 1, 1, 2, 0])
    got = ops.gather_mm(_as_mx(x), _as_mx(w).swapaxes(-1, -2), rhs_indices=mx.array(chosen))
    return got, np.stack([x[i] @ w[e].T for i, e in enumerate(chosen)])


OPERATIONS: dict[str, Callable[[], tuple[mx.array, np.ndarray]]] = {
    "linear": _linear,
    "4-bit linear": _quantized(4, 64, "affine"),
    "8-bit linear": _quantized(8, 64, "affine"),
    "MXFP4 linear": _quantized(4, 32, "mxfp4"),
    "experts": _experts,
    "RMS norm": _rms_norm,
    "layer norm": _layer_norm,
    "rope": _rope,
    "attention": _attention,
    "gated unit": _swiglu,
}
"""Each operation that a model is made of: what our kernels or MLX compute, and numpy's float64 result."""
