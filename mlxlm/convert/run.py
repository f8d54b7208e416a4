"""A checkpoint of any kind to an MLX folder in the memory of its largest tensor: all is computed as it is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..adapters import attach_all, fuse
from ..checkpoint import Checkpoint, open_checkpoint
from ..checkpoint.save import MAX_SHARD_BYTES, parameters, saved_config, saved_weights, shard_name, shards, write_json
from ..checkpoint.stream import write_safetensors
from ..configuration import ModelConfiguration
from ..errors import SourceError, TokenizerError, UsageError
from ..load import assemble, cast, dtype_of
from ..sources import configured, locate
from ..weights import Weights
from .beside import write_beside
from .budget import solved
from .importance import importance
from .modules import dequantize, is_quantized, quantize
from .recipes import Recipe, Setting
from .tuned import tuned
from .work import Work, working

SPARE_ROOM = 64 << 20
"""Bytes of disk beyond the weights: tokenizer, header, card."""


AHEAD = 1 << 24
"""Bytes of memory from which on MLX waits for what it has begun before it begins more."""


@dataclass(frozen=True)
class Conversion:
    """What was written. Sizes in bytes; ``settings`` are those of each quantized module, by its path here."""

    folder: Path
    source: str
    parameters: int
    bytes: int
    config: dict[str, Any] = field(repr=False)
    settings: dict[str, Setting] = field(default_factory=dict, repr=False)
    recipe: Recipe | None = None
    method: str | None = None

    @property
    def bits_per_weight(self) -> float:
        return self.bytes * 8 / self.parameters


Progress = Callable[[int, int], Any]


def convert(  # long: an argument a line
    source: str | Path | ModelConfiguration,
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    dtype: str | None = None,
    dequantized: bool = False,
    adapters: Mapping[Any, float] | None = None,
    method: str | None = None,
    bits_per_weight: float | None = None,
    size: int | None = None,
    revision: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = lambda done, total: None,
    model_config: dict[str, Any] | None = None,
) -> Conversion:
    """Writes the model of ``source`` (hub id, folder, GGUF, preset) to ``folder``, which must be new or empty.

    ``recipe`` quantizes (None keeps the weights as they are stored); ``dtype`` (float32, float16, bfloat16) is that of
    the weights that aren't quantized and of scales; ``dequantized`` makes plain weights of quantized ones.
    ``adapters`` are folders with the strength of each, fused into the weights first.
    ``method`` (gptq, awq, dwq) has mlx-lm tune the quantization; ``bits_per_weight`` or ``size`` in bytes is a budget
    that measured sensitivity spends. Either needs the model in memory.
    ``progress`` is called with (bytes done, bytes in all). An interrupted conversion goes on when it is asked for
    again with the same arguments. Raises MLXLMError; nothing then stands at ``folder``.
    """
    path = locate(configured(source, revision=revision))
    folder = Path(folder).expanduser()
    _apart(folder, path)
    checkpoint = open_checkpoint(path)
    if recipe is not None and dequantized:
        raise UsageError("a recipe quantizes what `dequantized` makes plain", where="recipe", hint="Give one of them.")
    wanted = None if dtype is None else dtype_of(dtype)

    def assembled() -> Any:
        """The model to convert, of which nothing was read."""
        made = assemble(checkpoint, model_config=model_config)
        return _changed(made, adapters or {}, dequantized, recipe is not None, wanted)

    model = assembled()
    recipe, settings = _quantized(model, assembled, checkpoint, recipe, method, bits_per_weight, size)
    plan = {"source": _fingerprint(checkpoint.path), "recipe": recipe and recipe.as_dict(), "dtype": dtype,
            "plain": dequantized, "shard": max_shard_bytes, "version": __version__, "config": model_config,
            "adapters": [[_fingerprint(Path(each).expanduser()), by] for each, by in (adapters or {}).items()],
            "method": method}
    config = {**checkpoint.config, **(model_config or {})}
    if wanted is not None:
        config = {**config, "dtype": dtype, "torch_dtype": dtype}
    written = _write(model, checkpoint, config, folder, plan, max_shard_bytes, progress)
    return replace(written, source=str(source), settings=settings, recipe=recipe, method=method)


def _changed(model: Any, adapters: Mapping[Any, float], dequantized: bool, quantizing: bool,
             dtype: mx.Dtype | None) -> Any:
    if adapters:
        attach_all(model, adapters)
        fuse(model, dequantize=dequantized or quantizing)
    if dequantized or (quantizing and is_quantized(model)):
        dequantize(model, dtype)
    if dtype is not None:
        cast(model, dtype)
    return model


def _quantized(model: Any, again: Callable[[], Any], checkpoint: Checkpoint, recipe: Recipe | None,
               method: str | None, bits_per_weight: float | None, size: int | None,
               ) -> tuple[Recipe | None, dict[str, Setting]]:
    """The recipe with what a budget made of it, and what became of each module of ``model``, which ``again`` makes."""
    if recipe is None:
        if (method, bits_per_weight, size) != (None, None, None):
            raise UsageError("there is nothing to quantize by", where="recipe", hint="Give a recipe.")
        return None, {}
    if bits_per_weight is not None and size is not None:
        raise UsageError("a budget is either bits a weight or a size", where="size", hint="Give one of them.")
    if (bits_per_weight, size) != (None, None):
        recipe = solved(model, _tokenizer(checkpoint), recipe, bits_per_weight=bits_per_weight, size=size)
    if method:
        return recipe, tuned(method, model, _tokenizer(checkpoint), recipe)
    return recipe, quantize(model, recipe, importance=_importance(model, again, checkpoint, recipe))


def _importance(model: Any, again: Callable[[], Any], checkpoint: Checkpoint, recipe: Recipe) -> dict[str, mx.array]:
    """What scales are fitted by; nothing where no scales are fitted, or where the model can't be fed a text."""
    if not (recipe.fit and recipe.calibrate and recipe.base.mode == "affine"):
        return {}
    try:
        return importance(again(), model, _tokenizer(checkpoint))
    except (TokenizerError, UsageError):
        return {}


def _tokenizer(checkpoint: Checkpoint) -> Any:
    from ..processor import load_processor

    return load_processor(checkpoint, ModelConfiguration(directory=checkpoint.path), {}, media=False)[0]


def _write(model: Any, checkpoint: Checkpoint, config: dict[str, Any], folder: Path, plan: dict[str, Any], most: int,
           progress: Progress) -> Conversion:
    count = parameters(model)
    weights, quantization = saved_weights(model, config)
    written = saved_config(config, quantization)
    model.update(_emptied(model))  # from here on `weights` alone holds them
    total = sum(w.nbytes for w in weights.values())
    # Freed buffers go back at once, for the next tensor has another shape; and MLX starts no work ahead of its turn.
    kept = mx.set_cache_limit(0), mx.set_memory_limit(mx.get_active_memory() + AHEAD)
    try:
        with working(folder, plan) as work:
            _check_room(work.folder, total)
            write_beside(checkpoint, work.folder)
            _write_shards(weights, work, most, {"total_size": total, "total_parameters": count}, progress)
            write_json(work.folder / "config.json", written)
    finally:
        mx.set_cache_limit(kept[0])
        mx.set_memory_limit(kept[1])
    return Conversion(folder, str(checkpoint.path), count, total, written)


def _emptied(model: Any) -> Any:
    from mlx.utils import tree_map

    return tree_map(lambda w: mx.array([]), model.parameters())


def _write_shards(weights: Weights, work: Work, most: int, facts: dict[str, int], progress: Progress) -> None:
    lots, total, done, places = list(shards(weights, most)), facts["total_size"], 0, {}

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for i, names in enumerate(lots, 1):
        file = shard_name(i, len(lots))
        places |= dict.fromkeys(names, file)
        lot = {name: weights.pop(name) for name in names}
        if work.has(file):
            advance(sum(w.nbytes for w in lot.values()))
            continue
        part = work.folder / f"{file}.part"
        digest = write_safetensors(part, lot, progress=advance)
        part.rename(work.folder / file)
        work.finished(file, digest)
    index = {"metadata": facts, "weight_map": dict(sorted(places.items()))}
    write_json(work.folder / "model.safetensors.index.json", index)


def _apart(folder: Path, source: Path) -> None:
    """The target must not be the source, nor lie in it: a conversion never changes what it reads."""
    target, held = folder.absolute().resolve(), source.resolve()
    inside = held if held.is_dir() else held.parent
    if target == inside or (held.is_dir() and inside in target.parents):
        raise UsageError("the converted model would be written into its source", where=folder,
                         hint="Choose a folder of its own.")


def _check_room(folder: Path, needed: int) -> None:
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed + SPARE_ROOM > free + there:
        raise SourceError("the disk has no room for the converted model", where=folder,
                          found=f"{free / 1e9:.1f} GB free", expected=f"{(needed + SPARE_ROOM - there) / 1e9:.1f} GB")


def _fingerprint(path: Path) -> list[Any]:
    """What tells one state of the source from another: names, sizes and times of its files."""
    files: Iterable[Path] = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return [str(path.resolve()), *((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)]
