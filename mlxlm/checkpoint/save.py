"""A model to a folder that mlx-lm, mlx-vlm and this package load: written beside its place, and renamed when whole."""

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config import older_words, text_part
from ..errors import SourceError, UsageError
from ..kernels.scales import in_number_dtype, is_quantized
from ..weights import Weights, rename_path
from .safetensors import read_header
from .stream import write_safetensors

MAX_SHARD_BYTES = 5_000_000_000
# What stands beside the weights and belongs to the model: tokenizer, templates, processors, how to generate.
BESIDE = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model", "*.tiktoken",
    "*.jinja", "chat_template*", "additional_chat_templates/*.jinja", "generation_config.json",
    "*processor_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip


def save_model(
    model: nn.Module,
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    source: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Writes ``model`` to ``folder``, which must be new or empty, and returns it.

    ``config`` is the config.json that the model was built from; its ``quantization`` is made anew from the model's
    own modules. ``source`` is a folder whose tokenizer and other small files come along. ``max_shard_bytes`` bounds a
    weight file; a single tensor beyond it has a file of its own. Nothing lies in ``folder`` until all is written.
    Raises UsageError for a folder that holds something, SourceError for a disk that is full or can't be written.
    """
    weights, quantization = saved_weights(model, config)
    with made_whole(Path(folder)) as partial:
        if source is not None:
            copy_beside(Path(source), partial)
        write_weights(weights, partial, max_shard_bytes, total_parameters=parameters(model))
        write_json(partial / "config.json", saved_config(config, quantization, text_only=_only_text(model, config)))
    return Path(folder)


def saved_weights(model: nn.Module, config: Mapping[str, Any]) -> tuple[Weights, dict[str, Any] | None]:
    """(every parameter by mlx-lm's name, the ``quantization`` of a config.json by those names or None)."""
    weights: Weights = dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]
    settings = {
        path: {name: getattr(module, name) for name in ("group_size", "bits", "mode") if hasattr(module, name)}
        for path, module in model.named_modules()
        if is_quantized(module)
    }
    # A folder's scales tell the dtype of the numbers, for mlx-lm too.
    weights |= {f"{path}.{name}": array for path, module in model.named_modules() if is_quantized(module)
                for name, array in in_number_dtype(module).items()}
    architecture = getattr(model, "architecture", None)
    for rule in architecture.saved if architecture else ():
        weights = rule(weights, getattr(model, "config", None))
        if hasattr(rule, "path"):
            moved = {path: rename_path((rule,), path, getattr(model, "config", None))[0] for path in settings}
            settings = {new if f"{new}.scales" in weights else old: settings[old] for old, new in moved.items()}
    if _only_text(model, config):
        weights = {f"language_model.{name}": w for name, w in weights.items()}
        settings = {f"language_model.{path}": s for path, s in settings.items()}
    return weights, _quantization(settings)


def _only_text(model: nn.Module, config: Mapping[str, Any]) -> bool:
    """Whether the model is the text half of the multimodal model that ``config`` describes."""
    return "language_model" not in model and text_part(dict(config)) != config


def _quantization(settings: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The commonest setting for all, and a row of its own for each module that differs."""
    if not settings:
        return None
    counted = Counter(tuple(sorted(s.items())) for s in settings.values())
    common = dict(counted.most_common(1)[0][0])
    return {**common, **{path: s for path, s in settings.items() if s != common}}


def saved_config(
    config: Mapping[str, Any], quantization: dict[str, Any] | None, *, text_only: bool = False
) -> dict[str, Any]:
    """The config.json of a saved model: rope settings in older words too, quantization under both of its names."""
    out = older_words({k: v for k, v in config.items() if k not in ("_name_or_path", "quantization")})
    for key in ("vision_config", "audio_config") if text_only else ():
        out.pop(key, None)
    inner = next((k for k in ("text_config", "llm_config", "language_config") if isinstance(out.get(k), dict)), None)
    if inner:
        out[inner] = older_words(out[inner])
    packed = out.pop("quantization_config", None)
    if quantization is not None:
        out["quantization"] = out["quantization_config"] = quantization
    elif isinstance(packed, dict) and packed.get("quant_method") == "bitnet":
        out["quantization_config"] = packed  # the weights are packed as they came
    return dict(sorted(out.items()))


def copy_beside(source: Path, folder: Path) -> None:
    """Copies the tokenizer and the other small files of a model's folder; what isn't there is left out."""
    for pattern in BESIDE:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                target = folder / file.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def parameters(model: nn.Module) -> int:
    """How many numbers the model has learned, packed ones counted as what they stand for."""
    total = 0
    for _, module in model.named_modules():
        own = {name: w for name, w in module.items() if isinstance(w, mx.array)}
        if is_quantized(module):
            own = {k: w for k, w in own.items() if k not in ("scales", "biases")}
            total += own.pop("weight").size * 32 // module.bits
        total += sum(w.size for w in own.values())
    return total


def write_weights(
    weights: Weights, folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES, *, total_parameters: int | None = None
) -> None:
    """model.safetensors, or several of it, and their index."""
    lots = list(shards(weights, max_shard_bytes))
    total = sum(w.nbytes for w in weights.values())
    if (free := shutil.disk_usage(folder).free) < total:
        raise SourceError("the disk has no room for the weights", where=folder, found=f"{free} bytes",
                          expected=f"{total} bytes")
    places: dict[str, str] = {}
    for i, names in enumerate(lots, 1):
        file = shard_name(i, len(lots))
        write_safetensors(folder / file, {name: weights[name] for name in names})
        read_header(folder / file)  # a short write is told now, not when the model is next loaded
        places |= dict.fromkeys(names, file)
    metadata = {"total_size": total, "total_parameters": total_parameters}
    metadata = {key: n for key, n in metadata.items() if n is not None}
    index = {"metadata": metadata, "weight_map": dict(sorted(places.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def shard_name(number: int, count: int) -> str:
    """The file of one lot of weights, numbered from 1."""
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def shards(weights: Weights, most: int) -> Iterator[list[str]]:
    """Names in order, in lots of at most ``most`` bytes."""
    lot, size = [], 0
    for name, w in weights.items():
        if lot and size + w.nbytes > most:
            yield lot
            lot, size = [], 0
        lot.append(name)
        size += w.nbytes
    yield lot


def write_json(file: Path, content: Any) -> None:
    """A JSON file, on the disk when this returns."""
    with file.open("w", encoding="utf-8") as f:
        f.write(json.dumps(tagged(content), indent=4, ensure_ascii=False, allow_nan=False) + "\n")
        f.flush()
        os.fsync(f.fileno())


def tagged(value: Any) -> Any:
    """``value`` with the numbers that JSON lacks as transformers writes them: ``{"__float__": "Infinity"}``."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"__float__": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: tagged(v) for key, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [tagged(v) for v in value]
    return value


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the name ``folder`` when the block ends well, and is gone if it doesn't.

    Raises UsageError if ``folder`` is a file or holds something.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("there is something already", where=folder, hint="Choose a new folder, or empty this one.")
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    except OSError as e:
        raise SourceError(f"the model can't be written ({e.strerror})", where=e.filename or folder) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
