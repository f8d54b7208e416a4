"""Weights into a model, strictly: what is missing, extra or misshapen is listed by layer, and nothing loads halfway."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .errors import ConfigError, WeightError

MOST_LISTED = 20
FLOATS = (mx.float16, mx.bfloat16, mx.float32, mx.float64)


def quantize_structure(model: nn.Module, weights: dict[str, mx.array], settings: dict[str, Any], where: object) -> None:
    """Turns each module whose ``.scales`` are among ``weights`` into its quantized kind, by ``settings``.

    ``settings`` is the ``quantization`` object of config.json: group_size, bits, mode, and module paths with settings
    of their own.
    """
    default = {k: settings[k] for k in ("group_size", "bits", "mode") if settings.get(k) is not None}

    def predicate(path: str, module: nn.Module) -> bool | dict:
        if f"{path}.scales" not in weights or not hasattr(module, "to_quantized"):
            return False
        own = settings.get(path)
        chosen = {**default, **own} if isinstance(own, dict) else default
        chosen = {k: v for k, v in chosen.items() if k in ("group_size", "bits", "mode")}
        if not {"group_size", "bits"} <= chosen.keys():
            raise ConfigError(f"quantization says nothing of {path}", where=where, expected="group_size and bits")
        return {"mode": "affine", **chosen}

    try:
        nn.quantize(model, class_predicate=predicate)
    except (ValueError, TypeError) as e:
        raise ConfigError(
            f"quantization has settings that MLX can't take ({_first_line(e)})", where=where, found=default
        ) from e


@contextmanager
def told(checkpoint: Any) -> Iterator[None]:
    """Errors about the tensors of a checkpoint come with the file; those that MLX raises become WeightError."""
    try:
        yield
    except WeightError as error:
        name = str(error.where)
        if name.startswith(str(checkpoint.path)):
            raise
        file = checkpoint.file_of(name)
        raise WeightError(error.problem, where=f"{file or checkpoint.path}: {name}", found=error.found,
                          expected=error.expected, hint=error.hint) from error
    except (ValueError, IndexError, ArithmeticError) as error:
        raise WeightError(f"the weights can't be brought to the model's layout ({_first_line(error)})",
                          where=checkpoint.path) from error


def load_strictly(model: nn.Module, weights: dict[str, mx.array], where: object, hint: str | None = None) -> None:
    """Puts ``weights`` into ``model``. Raises WeightError that lists every name or shape that doesn't fit."""
    wanted = dict(tree_flatten(model.parameters()))
    problems: dict[str, list[str]] = {
        "missing": [f"{n} {tuple(wanted[n].shape)}" for n in wanted.keys() - weights.keys()],
        "unexpected": [f"{n} {tuple(weights[n].shape)}" for n in weights.keys() - wanted.keys()],
        "misshapen": [
            f"{n} {tuple(weights[n].shape)}, expected {tuple(wanted[n].shape)}"
            for n in wanted.keys() & weights.keys()
            if weights[n].shape != wanted[n].shape
        ],
        "mistyped": [f"{n} {_name(weights[n])}, expected {_expected(n, wanted)}"
                     for n in wanted.keys() & weights.keys() if not _fits(weights[n], n, wanted)],
    }
    if any(problems.values()):
        lines = [line for kind, names in problems.items() if names for line in _listed(kind, names)]
        raise WeightError(
            "the weights don't fit the model that config.json describes:\n" + "\n".join(lines), where=where, hint=hint
        )
    model.load_weights(list(weights.items()), strict=True)


def _fits(w: mx.array, name: str, wanted: dict[str, mx.array]) -> bool:
    """Whether a tensor's dtype can stand where the model has another: any of floats for floats, else the very same."""
    own = wanted[name].dtype
    return (w.dtype in FLOATS) == (own in FLOATS) and (own in FLOATS or w.dtype == own)


def _expected(name: str, wanted: dict[str, mx.array]) -> str:
    return "floats" if wanted[name].dtype in FLOATS else _name(wanted[name])


def _name(w: mx.array) -> str:
    return str(w.dtype).removeprefix("mlx.core.")


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    """At most 20 lines: names that differ only in the layer's number are one line."""
    groups: dict[str, list[int]] = defaultdict(list)
    for name in names:
        number = re.search(r"\blayers\.(\d+)\.", name)
        groups[re.sub(r"\blayers\.\d+\.", "layers.*.", name)].append(int(number[1]) if number else -1)
    lines = []
    for name, layers in sorted(groups.items())[:MOST_LISTED]:
        at = f" (layers {_ranges(layers)})" if layers[0] >= 0 else ""
        lines.append(f"  {kind}: {name}{at}")
    if len(groups) > MOST_LISTED:
        lines.append(f"  {kind}: … and {len(groups) - MOST_LISTED} more")
    return lines


def _ranges(numbers: list[int]) -> str:
    """0-3, 7 for [0, 1, 2, 3, 7]."""
    out: list[list[int]] = []
    for n in sorted(numbers):
        if out and n == out[-1][1] + 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
