"""An adapter's folder, of mlx-lm or of PEFT, to one form: two factors and a scale for each module."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.safetensors import read_header
from ..errors import ConfigError, SourceError, WeightError
from ..files import read_object
from ..kernels.scales import FLOATS
from ..weights import Weights
from .settings import Peft, scale_of


@dataclass(frozen=True)
class LowRank:
    """What is added to a weight (..., out, in): ``scale`` * b @ a, with a (..., r, in) and b (..., out, r).

    ``magnitude`` (out,) is DoRA's: each row of the sum is then scaled to that length. ``turned`` says that the
    module's weight stands in its checkpoint as (in, out). An embedding has a row a token: b (tokens, r), a (r, dim);
    ``head`` says whether a head that is tied to it changes too.
    """

    name: str
    a: mx.array
    b: mx.array
    scale: float
    magnitude: mx.array | None = None
    turned: bool = False
    head: bool = True


@dataclass(frozen=True)
class Adapter:
    """A folder's content. ``whole`` are tensors that take the place of the model's own.

    ``hugging_face`` says that names and layout are transformers', not MLX's.
    """

    path: Path
    file: Path
    hugging_face: bool
    parts: dict[str, LowRank] = field(default_factory=dict)
    whole: Weights = field(default_factory=dict)


def read(folder: str | Path) -> Adapter:
    """The adapter in ``folder``. Raises MLXLMError that names file and tensor for whatever is wrong there."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SourceError("there is no adapter here", where=path,
                          expected="a folder with adapter_config.json and weights in safetensors")
    config = read_object(path / "adapter_config.json", required=True,
                         hint="A folder of mlx-lm or PEFT holds one.") or {}
    if "peft_type" in config:
        return _peft(path, config)
    return _mlx_lm(path, config)


def _tensors(file: Path) -> Weights:
    if not file.exists():
        pickle = file.with_suffix(".bin")
        if pickle.exists():
            raise SourceError("the adapter is a PyTorch pickle, which can run code when opened, so it isn't read",
                              where=pickle, hint="Save it again with PEFT's safe_serialization=True.")
        raise SourceError("the adapter's weights are missing", where=file)
    read_header(file)
    try:
        found: Any = mx.load(str(file), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise WeightError(f"MLX can't read it ({error})", where=file) from error
    if not found:
        raise WeightError("the adapter holds no tensors", where=file)
    return found


def _mlx_lm(path: Path, config: dict[str, Any]) -> Adapter:
    where, file = path / "adapter_config.json", path / "adapters.safetensors"
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora", "full"):
        raise ConfigError("fine_tune_type is not known", where=where, found=repr(kind), expected="lora, dora or full")
    if kind == "full":
        return Adapter(path, file, False, whole=_tensors(file))
    scale = scale_of(config.get("lora_parameters"), where)
    parts: dict[str, LowRank] = {}
    for name, kinds in _by_module(_tensors(file), re.compile(r"(.+)\.(lora_a|lora_b|m)"), file).items():
        first, second = _pair(kinds, ("lora_a", "lora_b"), name, file)
        if kind == "dora" and "m" not in kinds:
            raise WeightError("DoRA's magnitude is missing", where=f"{file}: {name}.m")
        a, b = _mlx_lm_factors(first, second, f"{file}: {name}")
        parts[name] = LowRank(name, a, b, scale, kinds.get("m"))
    return Adapter(path, file, False, parts)


def _mlx_lm_factors(first: mx.array, second: mx.array, where: str) -> tuple[mx.array, mx.array]:
    """(a, b) of a LowRank; linears keep both transposed, experts as they are, and a of experts perhaps flat."""
    if second.ndim == 3:
        if first.ndim == 2 and first.shape[0] == second.shape[0] * second.shape[2]:
            first = first.reshape(second.shape[0], second.shape[2], -1)
        a, b = first, second
    else:
        a, b = first.T, second.T
    _check_rank(a, b, where)
    return a, b


def embedded(part: LowRank) -> LowRank:
    """A part of mlx-lm's on an embedding, whose factors stand the other way round: lora_a (tokens, r)."""
    return replace(part, a=part.b.T, b=part.a.T)


_PEFT = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
                   r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?")


def _peft(path: Path, config: dict[str, Any]) -> Adapter:
    settings = Peft.read(config, path / "adapter_config.json")
    file = path / "adapter_model.safetensors"
    tensors = {name.removeprefix("base_model.model."): w for name, w in _tensors(file).items()}
    low = {name: w for name, w in tensors.items() if _PEFT.fullmatch(name)}
    whole = {_own_name(name): w for name, w in tensors.items() if name not in low}
    if strange := sorted(name for name in whole if "lora_" in name):
        raise WeightError("a kind of tensor that isn't known", where=f"{file}: {strange[0]}")
    parts: dict[str, LowRank] = {}
    for name, kinds in _by_module(low, _PEFT, file).items():
        embedding = any("embedding" in kind for kind in kinds)
        a, b = _pair(kinds, ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B"), name, file)
        a, b = (b.T, a.T) if embedding else (a, b)
        _check_rank(a, b, f"{file}: {name}")
        rank, scale = settings.of(name)
        if a.shape[-2] != rank:
            raise WeightError("the rank isn't what adapter_config.json says", where=f"{file}: {name}",
                              found=a.shape[-2], expected=rank)
        magnitude = kinds.get("lora_magnitude_vector")
        if settings.dora and magnitude is None:
            raise WeightError("DoRA's magnitude is missing", where=f"{file}: {name}.lora_magnitude_vector")
        if embedding and magnitude is not None:
            raise WeightError("DoRA on an embedding isn't read", where=f"{file}: {name}")
        parts[name] = LowRank(name, a, b, scale, magnitude if magnitude is None else magnitude.flatten(),
                              settings.turned and not embedding, head=not embedding)
    return Adapter(path, file, True, parts, whole)


def _own_name(name: str) -> str:
    return re.sub(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)", "", name)


def _by_module(tensors: Weights, pattern: re.Pattern, file: Path) -> dict[str, Weights]:
    found: dict[str, Weights] = {}
    for name, w in tensors.items():
        match = pattern.fullmatch(name)
        if match is None:
            raise WeightError("a tensor that no adapter of this kind has", where=f"{file}: {name}")
        if w.dtype not in FLOATS:
            raise WeightError("an adapter's tensor must hold floating-point numbers", where=f"{file}: {name}",
                              found=str(w.dtype))
        found.setdefault(match[1], {})[match[2]] = w
    return found


def _pair(kinds: Weights, wanted: tuple[str, str], name: str, file: Path) -> tuple[mx.array, mx.array]:
    for kind in wanted:
        if kind not in kinds:
            raise WeightError("one of an adapter's two factors is missing", where=f"{file}: {name}.{kind}")
    return kinds[wanted[0]], kinds[wanted[1]]


def _check_rank(a: mx.array, b: mx.array, where: str) -> None:
    if a.ndim != b.ndim or a.ndim not in (2, 3) or a.shape[-2] != b.shape[-1] or a.shape[:-2] != b.shape[:-2]:
        raise WeightError("an adapter's two factors don't fit each other", where=where,
                          found=f"{tuple(a.shape)} and {tuple(b.shape)}", expected="(r, in) and (out, r)")
