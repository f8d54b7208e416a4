"""model_type to the module that builds it, one table row a type; nothing is imported until it is asked for.

What is asked first: what the program registered, then our own rows (registries/*.toml), then other packages'
entry points (group ``mlxlm.models``), then the modules of an installed mlx-lm or mlx-vlm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar

from . import fallback
from .architecture import Architecture, TextHalf
from .config import normalize, read, text_part
from .configuration import ModelConfiguration
from .data import data_file, read_toml
from .errors import ConfigError, UnknownModelType

Creator = Callable[[dict[str, Any]], Any]
Names = list[str]  # inside TypeRegistry, `list` is its method


@dataclass(frozen=True)
class Entry:
    """One type that can be built: ``kind`` is native, registered, entry point or fallback."""

    model_type: str
    kind: str
    module: str


class TypeRegistry:
    """``model_type`` to architecture. A lookup imports one module at most; any thread may call any method."""

    table: ClassVar[str]  # the file in registries/ that holds the rows
    package: ClassVar[str]  # where the rows' modules are
    group: ClassVar[str]  # the entry-point group of other packages
    borrowed: ClassVar[fallback.Fallback]
    shared: ClassVar[TypeRegistry]

    def __init__(self):
        self._registered: dict[str, Architecture] = {}
        self._lock = threading.Lock()

    def register(self, model_type: str, creator: Architecture | Creator) -> None:
        """Makes ``model_type`` known, before any row of that name.

        ``creator`` is an Architecture, or takes the config.json as a dict and returns a module that keeps the
        contract of a model (``layers``, ``make_cache``, called with tokens and a cache).
        """
        _name(model_type)
        architecture = creator if isinstance(creator, Architecture) else _from_creator(model_type, creator)
        with self._lock:
            self._registered[model_type] = architecture

    def unregister(self, model_type: str) -> None:
        """Takes back a ``register``; a row of that name counts again. Nothing happens to an unknown name."""
        with self._lock:
            self._registered.pop(model_type, None)

    def contains(self, model_type: str) -> bool:
        """Whether ``create`` would find the type; imports no model."""
        return self._find(model_type) is not None

    __contains__ = contains

    def builds(self, model_type: str) -> bool:
        """Whether the type is built here or by what was registered, rather than borrowed from another package."""
        entry = self._find(model_type)
        return entry is not None and entry.kind != "fallback"

    def list(self) -> Names:
        """The names of all types, fallback included, sorted."""
        return [entry.model_type for entry in self.entries()]

    def entries(self) -> tuple[Entry, ...]:
        """All types with where they come from, sorted by name; imports no model."""
        found = dict(self.borrowed.types(self._fallback_names))
        merged = {t: Entry(t, "fallback", module) for t, module in found.items()}
        merged |= {t: Entry(t, "entry point", point.value) for t, point in self._entry_points.items()}
        merged |= {t: Entry(t, "native", f"{self.package}.{module}") for t, module in self._rows.items()}
        with self._lock:
            merged |= {t: _registered_entry(t, a) for t, a in self._registered.items()}
        return tuple(merged[t] for t in sorted(merged))

    def architecture(self, model_type: str) -> Architecture:
        """The architecture of a type; its ``config`` is ``dict`` if ``build`` takes the config.json as it is.

        Raises UnknownModelType, which names the closest types that exist.
        """
        entry = self._find(model_type)
        if entry is None:
            raise self._unknown(model_type)
        if entry.kind == "registered":
            with self._lock:
                return self._registered[model_type]
        if entry.kind == "native":
            return import_module(entry.module).ARCHITECTURE
        if entry.kind == "fallback":
            return self.borrowed.architecture(entry.module)
        return self._load_entry_point(model_type)

    def create(self, config: dict[str, Any], where: str = "config.json") -> Any:
        """The module that a config.json describes, with random weights; ``config`` and ``model_type`` are set."""
        return self.build(self.architecture(self.model_type(config, where)), config, where)

    def build(self, architecture: Architecture, config: dict[str, Any], where: str = "config.json") -> Any:
        """The module that ``architecture`` makes of a config.json, with random weights.

        Raises ConfigError for settings that no model can be built from, and for a module without the contract.
        """
        model_type = self.model_type(config, where)
        settings = config if architecture.config is dict else self.settings(architecture, config, where)
        try:
            model = architecture.build(settings)
        except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as e:
            raise ConfigError(f"no model can be built from these settings ({type(e).__name__}: {e})", where=where,
                              hint="Two fields contradict each other, or one is out of range.") from e
        missing = [name for name in ("layers", "make_cache") if not hasattr(model, name)]
        if missing:
            raise ConfigError(f"the module registered for {model_type!r} has no {' and no '.join(missing)}",
                              where=where, hint="See the contract of a model in docs/adding-a-model.md.")
        model.architecture = architecture
        if architecture.config is not dict:
            model.config = settings
            model.model_type = model_type
        return model

    def settings(self, architecture: Architecture, config: dict[str, Any], where: str = "config.json") -> Any:
        """``architecture.config`` filled from a config.json, in whichever dialect that is written."""
        return read(architecture.config, normalize(self.part(config), where), where)

    def part(self, config: dict[str, Any]) -> dict[str, Any]:
        """The part of a config.json that describes what this registry builds."""
        return config

    def model_type(self, config: Any, where: str = "config.json") -> str:
        """The ``model_type`` of a config.json; ConfigError if it has none."""
        if not isinstance(config, dict):
            raise ConfigError("it isn't a JSON object", where=where, found=type(config).__name__)
        found = config.get("model_type")
        if not isinstance(found, str) or not found:
            raise ConfigError("model_type is missing" if found is None else "model_type must be a name",
                              where=where, found=None if found is None else repr(found)[:60],
                              hint="Is this the config.json of a language model?")
        return found

    # Where the types come from

    @cached_property
    def _tables(self) -> dict[str, Any]:
        return read_toml(data_file(f"{self.table}.toml"))

    @property
    def _rows(self) -> dict[str, str]:
        return self._tables["types"]

    @property
    def _fallback_names(self) -> dict[str, str]:
        return self._tables.get("fallback", {})

    @cached_property
    def _entry_points(self) -> dict[str, Any]:
        from importlib.metadata import entry_points

        return {point.name: point for point in entry_points(group=self.group)}

    def _find(self, model_type: str) -> Entry | None:
        if not isinstance(model_type, str):
            return None
        with self._lock:
            if model_type in self._registered:
                return _registered_entry(model_type, self._registered[model_type])
        if model_type in self._rows:
            return Entry(model_type, "native", f"{self.package}.{self._rows[model_type]}")
        if model_type in self._entry_points:
            return Entry(model_type, "entry point", self._entry_points[model_type].value)
        module = self.borrowed.module(model_type, self._fallback_names)
        return Entry(model_type, "fallback", module) if module else None

    def _load_entry_point(self, model_type: str) -> Architecture:
        point = self._entry_points[model_type]
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            owner = point.dist.name if point.dist else point.value
            raise ConfigError(f"the entry point of {model_type!r} doesn't load: {error}", where=point.value,
                              hint=f"Repair or remove the package {owner}.") from error
        return found if isinstance(found, Architecture) else _from_creator(model_type, found)

    def _unknown(self, model_type: Any) -> UnknownModelType:
        known = self.list()
        close = get_close_matches(str(model_type), known, n=3, cutoff=0.6)
        hints = [f"Did you mean {_either(close)}?" if close else f"`mlxlm registry` lists the {len(known)} types."]
        if not self.borrowed.installed:
            hints.append(f"Install {self.borrowed.requirement} for the types that only it builds.")
        found = repr(model_type)[:80]
        return UnknownModelType("the model_type is not supported", found=found, hint=" ".join(hints))


class LLMTypeRegistry(TypeRegistry):
    """Text models; ``LLMTypeRegistry.shared`` is the one that ``load`` asks."""

    table, package, group = "llm", "mlxlm.models", "mlxlm.models"
    borrowed = fallback.Fallback("mlx_lm", "mlx-lm")

    def part(self, config: dict[str, Any]) -> dict[str, Any]:
        """A multimodal config is read for its text half."""
        return text_part(config)


class VLMTypeRegistry(TypeRegistry):
    """Vision-language models; ``VLMTypeRegistry.shared`` is the one that ``load`` asks."""

    shared: ClassVar[VLMTypeRegistry]  # type: ignore[assignment]

    table, package, group = "vlm", "mlxlm.vlms", "mlxlm.vlms"
    borrowed = fallback.Fallback("mlx_vlm", "mlx-vlm")

    def model_type(self, config: Any, where: str = "config.json") -> str:
        """The ``model_type``, or what the class in ``architectures`` stands for where several models share a type."""
        found = super().model_type(config, where)
        classes = config.get("architectures")
        known = self._tables.get("architectures", {})
        return next((known[c] for c in classes if c in known), found) if isinstance(classes, list) else found

    def prefers(self, model_type: str) -> bool:
        """Whether ``load`` builds the type here rather than as text: all but what only another package builds."""
        return self.builds(model_type) or (self.contains(model_type) and model_type not in LLMTypeRegistry.shared)

    def settings(self, architecture: Architecture, config: dict[str, Any], where: str = "config.json") -> Any:
        """``architecture.config`` filled from a config.json; its ``text_config`` is a `TextHalf`."""
        complete = getattr(architecture.config, "text", text_part)  # a model may know what its text half leaves out
        inner = complete(config)
        own = config.get("text_config") or config.get("llm_config") or config.get("language_config") or {}
        name = own.get("model_type") if isinstance(own, dict) else None
        name = name or (inner.get("model_type") if complete is not text_part else None)
        texts = LLMTypeRegistry.shared
        text_type = name if name and texts.contains(name) else self.model_type(config, where)
        half = texts.architecture(text_type)
        if half.config is dict:
            raise ConfigError("the text half's model_type is not supported", where=where, found=repr(text_type))
        text = TextHalf(half, texts.settings(half, {**inner, "model_type": text_type}, where))
        known = {f.name for f in fields(architecture.config)}
        told = {f.name for f in fields(half.config)} | {"rope_scaling", "rope_parameters", "text_config", "llm_config"}
        flat = inner is config  # the text half's fields then stand at the root, and reading that half judged them
        rest = {k: v for k, v in config.items() if k in known or not (flat or k in told)}
        return read(architecture.config, normalize({**rest, "text_config": text}, where), where)

    def text_half(self, config: dict[str, Any], where: str = "config.json") -> tuple[Architecture, dict[str, Any]]:
        """The text half of a type as an architecture of its own, and its config; for types that are none of text."""
        from .weights import Half  # which imports MLX

        whole = self.architecture(self.model_type(config, where))
        if whole.config is dict:
            raise ConfigError("the text half of this type can't be loaded alone", where=where)
        settings = self.settings(whole, config, where)
        half = settings.text_config.architecture
        inner = getattr(whole.config, "text", text_part)(config)
        names = (Half("language_model", whole.names, settings),)
        return Architecture(half.config, half.build, names, half.values), inner


LLMTypeRegistry.shared = LLMTypeRegistry()
VLMTypeRegistry.shared = VLMTypeRegistry()


class PresetRegistry:
    """Configurations of checkpoints by attribute, by id, and in order; ``register`` adds more.

    Ids and names are compared exactly. An id that nobody registered gives a fresh ModelConfiguration.
    """

    def __init__(self, table: str):
        self._table = table
        self._lock = threading.RLock()
        self._added: dict[str, ModelConfiguration] = {}

    @cached_property
    def _named(self) -> dict[str, ModelConfiguration]:
        path = data_file(f"{self._table}.toml")
        tables = read_toml(path)
        defaults = tables.get("defaults", {})
        return {name: ModelConfiguration.from_dict({**defaults, **settings}, f"{path.name}, preset {name}")
                for name, settings in tables["presets"].items()}

    @property
    def names(self) -> Names:
        """The names of the presets: the attributes of this registry."""
        return list(self._named)

    @property
    def models(self) -> list[ModelConfiguration]:
        """All configurations: the presets, then those that were registered."""
        with self._lock:
            return [*self._named.values(), *self._added.values()]

    def register(self, configurations: ModelConfiguration | Iterable[ModelConfiguration]) -> None:
        """Adds configurations; one of the same id as an earlier one takes its place when asked by id."""
        several = [configurations] if isinstance(configurations, ModelConfiguration) else list(configurations)
        if wrong := [item for item in several if not isinstance(item, ModelConfiguration)]:
            raise ConfigError("only configurations can be registered", found=repr(wrong[0])[:60],
                              expected="a ModelConfiguration")
        with self._lock:
            self._added |= {item.name: item for item in several}

    def configuration(self, id: str) -> ModelConfiguration:
        """The configuration of a hub id or of a preset's name, else a fresh one of that id."""
        found = self._find(id)
        return ModelConfiguration(id=id) if found is None else found

    def contains(self, id: str) -> bool:
        """Whether an id was registered, or is a preset's id or name."""
        return self._find(id) is not None

    __contains__ = contains

    def _find(self, id: str) -> ModelConfiguration | None:
        with self._lock:
            if id in self._added:
                return self._added[id]
        if id in self._named:
            return self._named[id]
        return next((preset for preset in self._named.values() if preset.id == id), None)

    def __getattr__(self, name: str) -> ModelConfiguration:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._named:
            return self._named[name]
        lower = {known.lower(): known for known in self._named}
        close = [lower[match] for match in get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
        hint = f" Did you mean {_either(close)}?" if close else ""
        raise AttributeError(f"there is no preset {name!r} in {self._table}.toml.{hint}", name=name, obj=None)

    def __dir__(self) -> Names:
        return sorted({*super().__dir__(), *self._named})

    def __repr__(self) -> str:
        return f"<{len(self.models)} configurations, {self._table}.toml>"


LLMRegistry = PresetRegistry("llm")
VLMRegistry = PresetRegistry("vlm")


def _name(model_type: Any) -> None:
    if not isinstance(model_type, str) or not model_type:
        raise ConfigError("a model_type must be a name", found=repr(model_type)[:60])


def _from_creator(model_type: str, creator: Any) -> Architecture:
    if not callable(creator):
        raise ConfigError(f"what {model_type!r} is registered with can't build a model",
                          found=type(creator).__name__,
                          expected="an Architecture, or a function that takes the config.json as a dict")
    return Architecture(dict, creator)


def _registered_entry(model_type: str, architecture: Architecture) -> Entry:
    return Entry(model_type, "registered", getattr(architecture.build, "__module__", None) or "")


def _either(names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
