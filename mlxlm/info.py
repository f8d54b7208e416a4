"""What a model is and what it would cost to run, from its config and the headers of its weights alone.

The module is built and called without being evaluated: MLX knows the shapes, so parameters and caches are counted
exactly, for any architecture, and no weight is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from . import memory
from .checkpoint import Checkpoint, open_checkpoint
from .configuration import ModelConfiguration
from .errors import MLXLMError, UsageError
from .kernels import in_force, keeps_narrow_scales
from .load import quantization
from .registry import LLMTypeRegistry
from .strict import quantize_structure
from .weights import rename_path

DEFAULT_CONTEXT = 4096
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k")
FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Info:
    """Counts of parameters, sizes in bytes, contexts in tokens; None stands for what can't be known.

    ``active_parameters`` are those that one token passes through. ``file_bytes`` are the tensors on disk,
    ``weight_bytes`` and ``cache_bytes`` what they take in memory, the latter at ``context`` tokens.
    ``conventions`` are (what, its value, where that comes from): what ends an answer, and how it is read.
    ``downloaded`` is False where only the small files of a repository were fetched, and the counts rest on them.
    ``problems`` say why something is missing, or why the model won't load.
    """

    source: str
    path: str
    downloaded: bool = True
    model_type: str
    support: str | None
    parameters: int | None = None
    active_parameters: int | None = None
    dtype: str | None = None
    quantization: dict[str, Any] | None = None
    bits_per_weight: float | None = None
    file_bytes: int | None = None
    weight_bytes: int | None = None
    max_context: int | None = None
    context: int = DEFAULT_CONTEXT
    cache_bytes: int | None = None
    cache_bytes_per_token: int | None = None
    memory_there: int | None = None
    device: str = ""
    tokenizer: dict[str, Any] | None = None
    conventions: tuple[tuple[str, str, str], ...] = ()
    license: str | None = None
    kernels: str = ""
    problems: tuple[str, ...] = field(default=())

    @property
    def memory_needed(self) -> int | None:
        """Weights and cache, in bytes; activations come on top."""
        if self.weight_bytes is None or self.cache_bytes is None:
            return None
        return self.weight_bytes + self.cache_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the memory that is there holds what is needed."""
        if self.memory_needed is None or self.memory_there is None:
            return None
        return self.memory_needed <= self.memory_there


def describe(source: str | Path | ModelConfiguration, *, context: int | None = None,
             revision: str | None = None) -> Info:
    """The facts of a model; ``context`` is the number of tokens that the cache is counted for.

    Raises MLXLMError where there is no model to look at; what is wrong inside it stands in ``problems``.
    """
    from .sources import configured

    if context is not None and context < 1:
        raise UsageError("context must be 1 or more", where="context", found=context)
    configuration = configured(source, revision=revision)
    path, here = _located(configuration)
    checkpoint = open_checkpoint(path, all_files=configuration.weight_file_selection == "all_files_present")
    problems: list[str] = []
    tensors = (_try(problems, lambda: _tensors(checkpoint)) or {}) if here else {}
    there, device = memory_there()
    facts: dict[str, Any] = {"source": str(source), "path": str(path), "memory_there": there, "device": device,
                             "model_type": str(checkpoint.config.get("model_type")), "support": _support(checkpoint)}
    facts["downloaded"] = here
    facts["file_bytes"] = sum(size for _, size in tensors.values()) or _indexed_bytes(path)
    facts["max_context"] = _max_context(checkpoint.config)
    facts["context"] = context or min(DEFAULT_CONTEXT, facts["max_context"] or DEFAULT_CONTEXT)
    facts |= _try(problems, lambda: _built(checkpoint, tensors, facts["context"])) or {}
    facts |= _try(problems, lambda: _processor(checkpoint, configuration)) or {}
    facts["license"] = _license(checkpoint)
    return Info(**facts, kernels=_kernels(), problems=tuple(problems))


def _located(configuration: ModelConfiguration) -> tuple[Path, bool]:
    """The model's files, and whether the weights are among them: for facts alone they aren't fetched from the hub."""
    from .sources import hub, locate

    name = configuration.id
    if name is None or ":" in name or name.endswith(".gguf") or hub.is_cached(name, configuration.revision):
        return locate(configuration), True
    path = locate(configuration, tokenizer_only=True)
    if path.is_file() or any(path.glob("*.safetensors")):
        return path, True  # a mirror's
    if not (path / "config.json").is_file():
        return locate(configuration), True  # a repository of GGUF files: the facts are in the weights' file
    return path, False


def _indexed_bytes(path: Path) -> int | None:
    """The size of all weights as their index says; None without one."""
    try:
        index = json.loads((path / "model.safetensors.index.json").read_text())
        return int(index["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a fact less; who loads the model is told what is wrong


def _try(problems: list[str], look) -> Any:
    """What ``look`` finds; a problem that a user can cause is noted, and the other facts are still told."""
    try:
        return look()
    except MLXLMError as error:
        problems.append(str(error))
        return None


def _tensors(checkpoint: Checkpoint) -> dict[str, tuple[str, int]]:
    """Each tensor's dtype or block type and its bytes on disk, by name, from the headers."""
    described: Any = checkpoint
    if hasattr(described, "tensors"):
        return {name: (t.block.name, int(t.data.nbytes)) for name, t in described.tensors.items()}
    return {name: (entry["dtype"], entry["data_offsets"][1] - entry["data_offsets"][0])
            for file in described.files for name, entry in described.header(file).items() if name != "__metadata__"}


def _support(checkpoint: Checkpoint) -> str | None:
    """native, registered, entry point or fallback; None for a type that nothing here builds."""
    model_type = checkpoint.config.get("model_type")
    return next((e.kind for e in LLMTypeRegistry.shared.entries() if e.model_type == model_type), None)


def _built(checkpoint: Checkpoint, tensors: Mapping[str, tuple[str, int]], context: int) -> dict[str, Any]:
    """The facts that the module tells once it is built, unevaluated."""
    raw, where = checkpoint.config, checkpoint.path
    model = LLMTypeRegistry.shared.create(raw, str(where))
    model.eval()
    sizes = _parameters(model)
    total = sum(array.size for array in sizes.values())
    dtype = _dtype(tensors, raw)
    model.set_dtype(dtype)
    settings = quantization(raw, where)
    if settings:
        architecture = LLMTypeRegistry.shared.architecture(raw["model_type"])
        names = {new for name in tensors for new in rename_path(architecture.names, name)}
        scales = _Scales(names if any(name.endswith(".scales") for name in names) else None, settings)
        quantize_structure(model, scales, settings, where)  # type: ignore[arg-type]
    weights = sum(array.nbytes for array in _parameters(model).values())
    if keeps_narrow_scales():
        weights -= 4 * checkpoint.narrow_groups  # a scale and a bias of two bytes less each
    cache, per_token = _cache(model, context)
    return {"parameters": total, "active_parameters": total - _idle(sizes, raw), "dtype": str(dtype).rpartition(".")[2],
            "quantization": _default(settings), "bits_per_weight": round(weights * 8 / total, 3),
            "weight_bytes": weights, "cache_bytes": cache, "cache_bytes_per_token": per_token}


def _parameters(model: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))  # type: ignore[arg-type]


class _Scales(Container):
    """The names of scales: those in the file, or by the settings alone where its names are another format's."""

    def __init__(self, names: set[str] | None, settings: Mapping[str, Any]):
        self._names, self._settings = names, settings

    def __contains__(self, name: object) -> bool:
        if self._names is not None:
            return name in self._names
        return self._settings.get(str(name).removesuffix(".scales")) is not False


def _default(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The settings that hold for every module without its own, and how many have their own."""
    if not settings:
        return None
    own = sum(isinstance(value, (dict, bool)) for value in settings.values())
    shared = {key: settings[key] for key in ("bits", "group_size", "mode") if settings.get(key) is not None}
    return {**shared, "modules_with_their_own": own}


def _dtype(tensors: Mapping[str, tuple[str, int]], raw: Mapping[str, Any]) -> mx.Dtype:
    """The dtype that activations, and so the cache, will have."""
    kinds = [kind for kind, _ in tensors.values()]
    if any(kind.startswith(("Q", "IQ", "TQ", "MXFP")) for kind in kinds):
        return mx.float32  # what the scales of a GGUF's blocks are loaded as
    floats = [kind for kind in kinds if kind in FLOATS]
    if floats:
        return FLOATS[max(set(floats), key=floats.count)]
    named = str(raw.get("dtype") or raw.get("torch_dtype") or "").removeprefix("torch.")
    return {"float32": mx.float32, "float16": mx.float16}.get(named, mx.bfloat16)


def _idle(sizes: Mapping[str, mx.array], raw: Mapping[str, Any]) -> int:
    """Parameters of the experts that one token is not sent to."""
    text = raw.get("text_config") if isinstance(raw.get("text_config"), dict) else raw
    count = next((text[key] for key in EXPERTS if isinstance(text.get(key), int)), 0)  # type: ignore[union-attr]
    chosen = next((text[key] for key in CHOSEN if isinstance(text.get(key), int)), count)  # type: ignore[union-attr]
    if not count:
        return 0
    stacked = [a for name, a in sizes.items() if a.shape[0] == count and (a.ndim == 3 or "expert" in name)]
    experts = sum(a.size for a in stacked)
    return experts * max(count - chosen, 0) // count


def _cache(model: Any, context: int) -> tuple[int, int]:
    """(bytes at ``context`` tokens, bytes that one more token takes while no window is full).

    Two unevaluated calls show what each layer's cache keeps whatever the length and what it keeps for a token.
    """
    short, long = 512, 1024
    total = growth = 0
    for cache, few, many in zip(model.make_cache(), _layers(model, short), _layers(model, long), strict=True):
        per_token = (many - few) // (long - short)
        window = getattr(cache, "window", None) or getattr(cache, "max_size", None) or context
        total += few - per_token * short + per_token * min(context, window)
        growth += per_token
    return total, growth


def _layers(model: Any, length: int) -> list[int]:
    caches = model.make_cache()
    model(mx.zeros((1, length), mx.int32), cache=caches)
    return [cache.nbytes for cache in caches]


def _max_context(raw: Mapping[str, Any]) -> int | None:
    inner = raw.get("text_config")
    for config in (raw, inner if isinstance(inner, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len"):
            if isinstance(config.get(key), int):
                return config[key]
    return None


def _processor(checkpoint: Checkpoint, configuration: ModelConfiguration) -> dict[str, Any]:
    """What the tokenizer and the merged configuration say about size, template and endings, and the conventions."""
    from .processor import load_processor

    tokenizer, merged = load_processor(checkpoint, configuration)
    ends = sorted(tokenizer.eos_token_ids)
    facts = {"vocabulary": tokenizer.vocab_size, "chat_template": tokenizer.has_chat_template, "eos_token_ids": ends,
             "eos_tokens": [str(tokenizer.convert_ids_to_tokens(i)) for i in ends],
             "stop_strings": sorted(merged.effective_stop_strings or ())}
    return {"tokenizer": facts, "conventions": (*_ways(checkpoint, tokenizer), *_endings(
        checkpoint, configuration, tokenizer, facts["stop_strings"]))}


def _ways(checkpoint: Checkpoint, tokenizer: Any) -> list[tuple[str, str, str]]:
    """How the model talks: its chat template, tool calls and reasoning."""
    from .generate.conventions import conventions_of

    if not tokenizer.has_chat_template:
        return []
    found = conventions_of(SimpleNamespace(config=checkpoint.config), tokenizer)
    rows = [("chat template", name, Path(file).name) for name, file in tokenizer.template_sources.items()]
    rows.append(("tool calls", found.format, found.format_from))
    marks = f"{found.protocol.start!r} to {found.protocol.end!r}" if found.protocol is not None else "none"
    return [*rows, ("reasoning", marks, found.protocol_from)]


def _endings(checkpoint: Checkpoint, configuration: ModelConfiguration, tokenizer: Any,
             stops: list[str]) -> list[tuple[str, str, str]]:
    """What ends an answer, and who says so."""
    from .configuration import merge_generation_config

    bare = ModelConfiguration(id="none")
    config = merge_generation_config(bare, checkpoint.config).eos_token_ids
    files = merge_generation_config(bare, checkpoint.config, checkpoint.generation_config)
    generation = checkpoint.generation_config or {}
    said = "generation_config.json" if generation.get("eos_token_id") is not None else \
        "config.json" if checkpoint.path.is_dir() else "the GGUF's metadata"
    extra = {tokenizer.token_to_id(token) for token in configuration.extra_eos_tokens}
    origins = {said: files.eos_token_ids if said.startswith("g") else config, "the tokenizer": {tokenizer.eos_token_id},
               "the configuration": configuration.eos_token_ids | extra}
    rows = [("ends at", repr(str(tokenizer.convert_ids_to_tokens(token))),
             ", ".join(name for name, ids in origins.items() if token in ids) or "the tokenizer")
            for token in sorted(tokenizer.eos_token_ids)]
    own = configuration.effective_stop_strings
    return rows + [("stops at", repr(stop), "the configuration" if stop in own else "generation_config.json")
                   for stop in stops]


def _license(checkpoint: Checkpoint) -> str | None:
    """What README.md's head or a GGUF's metadata says, else the name of a file that looks like a license."""
    metadata = getattr(checkpoint, "metadata", None)
    if metadata is not None:
        return next((metadata[key] for key in ("general.license", "general.license.name")
                     if isinstance(metadata.get(key), str)), None)
    try:
        head = re.match(r"---\s*\n(.*?)\n---", (checkpoint.path / "README.md").read_text("utf-8", "replace"), re.DOTALL)
        said = dict(re.findall(r"^(license\w*):\s*(\S.*?)\s*$", head[1] if head else "", re.MULTILINE))
    except OSError:
        said = {}
    name = said.get("license_name", "other") if said.get("license", "other") == "other" else said["license"]
    if name != "other":
        return name.strip("'\"")
    names = (file.name for file in checkpoint.path.iterdir())
    files = sorted(name for name in names if name.lower().startswith(("licen", "copying")))
    return f"see {files[0]}" if files else None


def _kernels() -> str:
    facts = in_force()
    if not facts["native"]:
        return f"plain MLX ({facts['reason']})"
    return f"native, {facts['instruction_set']}, {facts['threads']} threads"


def memory_there() -> tuple[int, str]:
    """(bytes that a model may take now, the device's name), by the rule that a load itself is checked by."""
    device = mx.device_info().get("device_name", mx.default_device().type.name)
    return max(memory.device_room().free, 0), str(device)
