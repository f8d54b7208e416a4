"""Adapters on a model: put on, weighted, taken off, or fused into its weights for good."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import UsageError
from ..weights import Weights
from .files import read
from .modules import Adapted, AdaptedEmbedding, Part, kind_of
from .place import placed, replaced


class _Attached:
    """What is on a model: strengths by name, and what whole tensors took the place of."""

    def __init__(self) -> None:
        self.strengths: dict[str, float] = {}
        self.before: dict[str, Weights] = {}


def attach(model: nn.Module, folder: str | Path, *, name: str | None = None, strength: float = 1.0) -> str:
    """Puts the adapter in ``folder`` (of mlx-lm or PEFT) on ``model``; returns its ``name`` there, by default the
    folder's. ``strength`` scales what it adds. Raises MLXLMError, and the model is then as it was."""
    held = _held(model)
    _check_strength(strength)
    name = name or Path(folder).expanduser().resolve().name
    if not name or "." in name or name in held.strengths:
        raise UsageError("an adapter needs a name of its own, without a dot", where="name", found=repr(name))
    adapter = read(folder)
    parts, whole = placed(model, adapter), replaced(model, adapter)
    if whole and (other := next((n for n, w in held.before.items() if w.keys() & whole.keys()), None)):
        raise UsageError("two adapters replace the same tensors", where=folder, found=other)
    if whole and strength != 1.0:
        raise UsageError("the adapter replaces tensors, so it has no strength", where=folder, found=strength)
    modules: dict[str, Any] = dict(model.named_modules())
    changed = []
    for path, low in parts.items():
        module: Any = modules[path]
        if not isinstance(module, Adapted):
            kind: Any = kind_of(module)
            module = kind(module)
            changed.append((path, module))
        module.parts[name] = Part(low, module.base, strength)
    if changed:
        model.update_modules(tree_unflatten(changed))
    if whole:
        own: dict[str, Any] = dict(tree_flatten(model.parameters()))
        held.before[name] = {n: own[n] for n in whole}
        model.load_weights([(n, w.astype(own[n].dtype)) for n, w in whole.items()], strict=False)
    held.strengths[name] = strength
    model.eval()
    return name


def attach_all(model: nn.Module, adapters: str | Path | Iterable[Any] | Mapping[Any, float]) -> list[str]:
    """Attaches one folder, several, or several with the strength of each; returns their names."""
    if isinstance(adapters, str | Path):
        return [attach(model, adapters)]
    strengths = dict(adapters) if isinstance(adapters, Mapping) else dict.fromkeys(adapters, 1.0)
    names = []
    for i, (folder, strength) in enumerate(strengths.items()):
        taken = Path(folder).expanduser().resolve().name in attached(model)
        names.append(attach(model, folder, strength=strength, name=f"adapter-{i}" if taken else None))
    return names


def attached(model: Any) -> dict[str, float]:
    """The strength of each adapter that is on the model, by its name."""
    return dict(_held(model).strengths)


def set_strength(model: nn.Module, name: str, strength: float) -> None:
    """Scales what an adapter adds: 1 is as it was trained, 0 nothing. Raises UsageError for a name that isn't on."""
    held = _known(model, name)
    _check_strength(strength)
    if name in held.before:
        raise UsageError("the adapter replaces tensors, so it has no strength", where=name)
    for module in _adapted(model).values():
        if name in module.parts:
            module.parts[name].strength = mx.array(strength)
    held.strengths[name] = strength


def _check_strength(strength: float) -> None:
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise UsageError("the strength must be a number", where="strength", found=repr(strength))


def detach(model: nn.Module, name: str | None = None) -> None:
    """Takes an adapter off, or all: the modules are then the very ones that were there before."""
    for each in [name] if name is not None else list(attached(model)):
        held = _known(model, each)
        bare = []
        for path, module in _adapted(model).items():
            module.parts.pop(each, None)
            if not module.parts:
                bare.append((path, module.base))
        if bare:
            model.update_modules(tree_unflatten(bare))
        model.load_weights(list(held.before.pop(each, {}).items()), strict=False)
        del held.strengths[each]


def fuse(model: nn.Module, *, dequantize: bool = False) -> int:
    """Adds all that is attached to the weights for good, as W + scale * BA in float32, rounded to W's dtype.

    Returns how many modules and whole tensors changed. Quantized modules are quantized again with their own settings,
    or stay plain with ``dequantize``. Nothing is computed until it is used.
    Raises UsageError where a tied head would change too.
    """
    made = []
    for path, module in _adapted(model).items():
        if isinstance(module, AdaptedEmbedding) and not all(p.head for p in module.parts.values()) and _tied(model):
            raise UsageError("the adapter changes the embedding but not the head, and one weight is both",
                             where=path, hint="Use it unfused.")
        made.append((path, module.fused(dequantize)))
    if made:
        model.update_modules(tree_unflatten(made))
    held = _held(model)
    count = len(made) + sum(len(w) for w in held.before.values())
    held.strengths.clear()
    held.before.clear()
    return count


def _tied(model: Any) -> bool:
    config = getattr(model, "config", None)
    text = getattr(getattr(config, "text_config", None), "config", config)
    return bool(getattr(text, "tie_word_embeddings", False))


def _adapted(model: nn.Module) -> dict[str, Adapted]:
    return {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}


def _held(model: Any) -> _Attached:
    if not isinstance(getattr(model, "_attached", None), _Attached):
        model._attached = _Attached()
    return model._attached


def _known(model: nn.Module, name: str) -> _Attached:
    held = _held(model)
    if name not in held.strengths:
        raise UsageError("no adapter of this name is on the model", where="name", found=repr(name),
                         expected=", ".join(held.strengths) or "none is on it")
    return held
