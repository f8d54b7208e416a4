"""Quantization that looks at what a module is fed (GPTQ, AWQ, DWQ), by mlx-lm's implementations on our modules.

The model, and what they learn from a text, must fit in memory.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..cache import State
from ..decoder import Decoder, Step
from ..errors import MLXLMError, UsageError
from .measure import sample_text
from .modules import quantize
from .recipes import Recipe, Setting

LENGTH = 256
"""Tokens of one sample of the text."""
PASSES = 4
"""How often DWQ sees the text."""


def tuned(method: str, model: nn.Module, tokenizer: Any, recipe: Recipe) -> dict[str, Setting]:
    """Quantizes a plain model by ``method``; returns what each module became. Raises MLXLMError where mlx-lm lacks the
    method for it, or isn't installed."""
    if method not in METHODS:
        raise UsageError("unknown method", where="method", found=repr(method), expected=", ".join(METHODS))
    if recipe.base.mode != "affine":
        raise UsageError("tuned quantization has one mode", where="mode", found=recipe.base.mode, expected="affine")
    if not isinstance(model, Decoder):
        raise UsageError("tuned quantization takes models of text alone", where="method", found=method)
    samples = calibration(tokenizer)
    try:
        with _quiet():
            METHODS[method](model, samples, recipe)
    except ImportError as error:
        raise MLXLMError(f"{method} runs by mlx-lm, which isn't installed ({error})",
                         hint="Install it with `pip install mlx-lm`.") from error
    model.eval()
    return {path: Setting(m.bits, m.group_size, m.mode) for path, m in _quantized(model)}


def calibration(tokenizer: Any) -> mx.array:
    """The project's own text in rows of LENGTH tokens. Raises UsageError for a tokenizer that makes none of it."""
    ids = list(tokenizer.encode(sample_text("calibrate"), add_special_tokens=False))
    rows = len(ids) // LENGTH
    if not rows:
        raise UsageError("the text is too short to learn from", found=f"{len(ids)} tokens")
    return mx.array(ids[:rows * LENGTH]).reshape(rows, LENGTH)


def _gptq(model: Any, samples: mx.array, recipe: Recipe) -> None:
    from mlx_lm.quant.gptq import gptq_quantize

    base = recipe.base
    if base.bits not in (2, 4, 8):
        raise UsageError("GPTQ packs other bits only", where="bits", found=base.bits, expected="2, 4 or 8")
    layers = len(model.layers)

    def plainly(path: str, module: Any) -> bool:
        wanted = recipe.setting(path, layers)
        fits = wanted and wanted.fitting(module["weight"].shape[-1])
        return fits != base or type(module) is not nn.Linear

    quantize(model, recipe, only=plainly)
    kept = [(path, m) for path, m in model.named_modules() if hasattr(m, "to_quantized")
            and "scales" not in m and plainly(path, m)]
    if kept:
        model.update_modules(tree_unflatten([(path, _Kept(m)) for path, m in kept]))
    gptq_quantize(model, samples, base.bits, base.group_size, base.bits, base.group_size, batch_size=4)
    if kept:
        model.update_modules(tree_unflatten(kept))


class _Kept(nn.Module):
    """A module out of GPTQ's sight."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.__dict__["_module"] = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_module"](*args, **kwargs)


def _awq(model: Any, samples: mx.array, recipe: Recipe) -> None:
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize

    config = AWQ_MODEL_CONFIGS.get(model.model_type)
    if config is None or config.lm_key is not None or not all(_has(layer, config) for layer in model.layers):
        known = sorted(name for name, c in AWQ_MODEL_CONFIGS.items() if c.lm_key is None)
        raise UsageError("mlx-lm's AWQ doesn't know how this architecture is scaled", where="method",
                         found=model.model_type, expected=f"a model built as {', '.join(known)}")
    base, head = recipe.base, recipe.setting("lm_head", len(model.layers)) or recipe.base
    with _called_as_theirs(model):
        awq_quantize(model, samples, config, group_size=base.group_size, bits=base.bits,
                     embed_group_size=head.group_size, embed_bits=head.bits, n_grid=10)


def _has(layer: Any, config: Any) -> bool:
    paths = {path for path, _ in layer.named_modules()}
    wanted = [(f"{c.block}." if c.block else "") + name for c in config.scale_configs for name in c.layers
              if c.use_config is None or c.use_config(layer)]
    previous = [c.prev for c in config.scale_configs if c.use_config is None or c.use_config(layer)]
    return {*wanted, *previous} <= paths and config.embed == "embed_tokens"


@contextmanager
def _called_as_theirs(model: Any):
    """Blocks and mixers that are called with x and a mask alone, as mlx-lm's are."""
    changed = [m for layer in model.layers for m in (layer, layer.self_attn)]
    own = [type(m) for m in changed]
    for module, kind in zip(changed, own, strict=True):
        module.__class__ = _theirs(kind)
    try:
        yield
    finally:
        for module, kind in zip(changed, own, strict=True):
            module.__class__ = kind


def _theirs(kind: type) -> type:
    def called(self: Any, x: mx.array, cache: Any = None, step: Any = None, mask: Any = None) -> mx.array:
        if step is None:
            cache = self.make_cache()
            step = Step(x.shape[1], State([cache]))
        return kind.__call__(self, x, cache, step)

    return type(kind.__name__, (kind,), {"__call__": called})


def _dwq(model: Any, samples: mx.array, recipe: Recipe) -> None:
    import mlx.optimizers as optimizers
    from mlx_lm.quant.dwq import dwq_quantize

    teacher = copy.deepcopy(model)
    quantize(model, recipe)
    model.freeze()
    rows = [(row, 0) for row in samples.tolist()]  # type: ignore[union-attr]
    held, learned = rows[:1], rows[1:] or rows
    dtype = next(m.scales.dtype for _, m in _quantized(model))
    dwq_quantize(model, lambda batch, index, split: teacher(batch), optimizers.Adam(learning_rate=1e-6),
                 learned * PASSES, held, batch_size=1, max_seq_length=LENGTH + 1, seed=0, dtype=dtype)


METHODS: dict[str, Callable[[Any, mx.array, Recipe], None]] = {"gptq": _gptq, "awq": _awq, "dwq": _dwq}


def _quantized(model: nn.Module) -> list[tuple[str, Any]]:
    return [(path, m) for path, m in model.named_modules() if "scales" in m and hasattr(m, "bits")]


@contextmanager
def _quiet():
    """mlx-lm's own progress is shown to those who watch, and written nowhere else."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield
