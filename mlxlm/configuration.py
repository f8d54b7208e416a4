"""ModelConfiguration: what one checkpoint needs beyond its config.json, and how that merges with what its files say.

Every value is checked when it is set, so that a misspelt key or a wrong type is told at once and by name.
"""

import dataclasses
import json
import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError

ALWAYS_ON, NONE = "always_on", "none"
WEIGHT_FILES = ("automatic", "all_files_present")


@dataclass(frozen=True)
class TemplateFlag:
    """The chat template's own switch for reasoning: the variable ``key``, and what it stands at."""

    key: str
    default_on: bool = True

    def __post_init__(self):
        _check(self, "key", str)
        _check(self, "default_on", bool)
        if not self.key:
            raise ConfigError("the name of a template flag is empty", where="prompt_strategy")


@dataclass(frozen=True)
class BudgetTransition:
    """What is written to end reasoning early: ``before`` the end delimiter, and ``after`` it."""

    before: str = ""
    after: str = ""

    def __post_init__(self):
        _check(self, "before", str)
        _check(self, "after", str)


@dataclass(frozen=True)
class ReasoningConfig:
    """How a model marks its reasoning, and how a prompt switches it on or off.

    ``prompt_strategy`` is a TemplateFlag, ``"always_on"`` or ``"none"``; ``implicit_end_delimiters`` end the
    reasoning too, but belong to the answer; ``is_special_token`` says that the delimiters are special tokens.
    """

    start_delimiter: str
    end_delimiter: str
    prompt_strategy: TemplateFlag | Literal["always_on", "none"] = NONE
    is_special_token: bool = False
    implicit_end_delimiters: tuple[str, ...] = ()
    budget_transition: BudgetTransition | None = None

    def __post_init__(self):
        for name in ("start_delimiter", "end_delimiter"):
            _check(self, name, str)
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty", where="reasoning")
        _check(self, "is_special_token", bool)
        object.__setattr__(self, "implicit_end_delimiters", tuple(_strings(self, "implicit_end_delimiters")))
        if isinstance(self.prompt_strategy, Mapping):
            object.__setattr__(self, "prompt_strategy", _build(TemplateFlag, self.prompt_strategy, "prompt_strategy"))
        if not isinstance(self.prompt_strategy, TemplateFlag) and self.prompt_strategy not in (ALWAYS_ON, NONE):
            raise ConfigError("prompt_strategy is unknown", where="reasoning", found=repr(self.prompt_strategy)[:60],
                              expected="'always_on', 'none', or a flag of the template: {key = \"enable_thinking\"}")
        if isinstance(self.budget_transition, Mapping):
            made = _build(BudgetTransition, self.budget_transition, "budget_transition")
            object.__setattr__(self, "budget_transition", made)
        _check(self, "budget_transition", BudgetTransition, optional=True)

    def template_arguments(self, enabled: bool) -> dict[str, bool]:
        """The chat template's variables that switch reasoning on or off; ConfigError if it can't be switched off."""
        if isinstance(self.prompt_strategy, TemplateFlag):
            return {self.prompt_strategy.key: enabled}
        if not enabled:
            raise ConfigError("this model's reasoning can't be switched off", where="reasoning")
        return {}


@dataclass(frozen=True)
class ModelConfiguration:
    """Which checkpoint, and what it needs beyond its files: ``id`` on the hub, or ``directory`` (or .gguf file) here.

    ``extra_eos_tokens`` end an answer by token; ``stop_strings`` by text, None meaning: by the text of
    extra_eos_tokens; ``eos_token_ids`` come on top of what the checkpoint says. ``tokenizer_id`` is a hub id or a
    folder to take the tokenizer from, ``override_tokenizer`` a class of transformers to read it with. ``mirrors`` are
    sources to try when the hub doesn't answer.
    """

    id: str | None = None
    directory: Path | None = None
    revision: str = "main"
    tokenizer_id: str | None = None
    tokenizer_revision: str | None = None
    override_tokenizer: str | None = None
    default_prompt: str = ""
    extra_eos_tokens: frozenset[str] = frozenset()
    stop_strings: frozenset[str] | None = None
    eos_token_ids: frozenset[int] = frozenset()
    tool_call_format: str | None = None
    reasoning: ReasoningConfig | None = None
    weight_file_selection: Literal["automatic", "all_files_present"] = "automatic"
    message_generator: str | None = None
    mirrors: tuple[str, ...] = field(default=())

    def __post_init__(self):
        self._check_source()
        for name in ("tokenizer_id", "tokenizer_revision", "override_tokenizer", "tool_call_format",
                     "message_generator"):
            _check(self, name, str, optional=True)
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty", where=self._where, hint="Leave it out where it isn't needed.")
        _check(self, "default_prompt", str)
        self._set("extra_eos_tokens", frozenset(_strings(self, "extra_eos_tokens")))
        if self.stop_strings is not None:
            self._set("stop_strings", frozenset(_strings(self, "stop_strings")))
        self._set("eos_token_ids", frozenset(_token_ids(self.eos_token_ids, "eos_token_ids", self._where)))
        self._set("mirrors", tuple(_strings(self, "mirrors")))
        if isinstance(self.reasoning, Mapping):
            self._set("reasoning", _build(ReasoningConfig, self.reasoning, "reasoning"))
        _check(self, "reasoning", ReasoningConfig, optional=True)
        if self.weight_file_selection not in WEIGHT_FILES:
            raise ConfigError("weight_file_selection is unknown", where=self._where,
                              found=repr(self.weight_file_selection)[:60], expected=" or ".join(WEIGHT_FILES))

    def _check_source(self) -> None:
        _check(self, "id", str, optional=True)
        _check(self, "revision", str)
        if isinstance(self.directory, str):
            self._set("directory", Path(self.directory).expanduser())
        _check(self, "directory", Path, optional=True)
        if (self.id is None) == (self.directory is None):
            raise ConfigError("a configuration names either an id or a directory", where="ModelConfiguration",
                              found="both" if self.id is not None else "neither")
        if self.id is not None and not self.id.strip():
            raise ConfigError("id is empty", where="ModelConfiguration", expected="a name such as 'owner/model'")
        if not self.revision:
            raise ConfigError("revision is empty", where=self._where, expected="a branch, tag or commit")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def _where(self) -> str:
        return f"ModelConfiguration of {self.name}"

    @property
    def name(self) -> str:
        """The hub id, or ``Parent/Dir`` of a directory."""
        if self.directory is None:
            return str(self.id)
        parts = [part for part in self.directory.absolute().parts if part != self.directory.anchor]
        return "/".join(parts[-2:])

    @property
    def effective_stop_strings(self) -> frozenset[str]:
        """The texts that end an answer: ``stop_strings`` if set (an empty set counts), else ``extra_eos_tokens``."""
        return self.extra_eos_tokens if self.stop_strings is None else self.stop_strings

    @property
    def tokenizer_source(self) -> tuple[str | Path, str | None]:
        """Where the tokenizer comes from, and its revision: ``tokenizer_id``, else the model itself."""
        if self.tokenizer_id is not None:
            return self.tokenizer_id, self.tokenizer_revision
        return (str(self.id), self.revision) if self.directory is None else (self.directory, None)

    def replace(self, **changes: Any) -> "ModelConfiguration":
        """This configuration with other values in some fields."""
        _known(type(self), changes, self._where)
        if changes.get("id") is not None:
            changes.setdefault("directory", None)
        elif changes.get("directory") is not None:
            changes.setdefault("id", None)
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], where: object = "ModelConfiguration") -> "ModelConfiguration":
        """A configuration from plain values: lists for sets, dicts for ``reasoning`` and its parts."""
        return _build(cls, settings, where)

    @classmethod
    def from_json(cls, source: str | Path) -> "ModelConfiguration":
        """From a .json file, or from JSON text; a ``directory`` is relative to the file."""
        return cls._parse(source, ".json", json.loads)

    @classmethod
    def from_toml(cls, source: str | Path) -> "ModelConfiguration":
        """From a .toml file, or from TOML text; a ``directory`` is relative to the file."""
        return cls._parse(source, ".toml", tomllib.loads)

    @classmethod
    def _parse(cls, source: str | Path, suffix: str, parse: Any) -> "ModelConfiguration":
        is_file = isinstance(source, Path) or str(source).strip().endswith(suffix)
        where = source if is_file else f"the {suffix[1:].upper()} text"
        try:
            settings = parse(Path(source).read_text(encoding="utf-8") if is_file else source)
        except OSError as error:
            raise ConfigError(f"it can't be read: {error.strerror}", where=where) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"it isn't {suffix[1:].upper()}: {error}", where=where) from error
        made = cls.from_dict(settings, where)
        if is_file and made.directory is not None and not made.directory.is_absolute():
            made = made.replace(directory=Path(source).absolute().parent / made.directory)
        return made


def merge_generation_config(configuration: ModelConfiguration, config: Mapping[str, Any],
                            generation_config: Any = None) -> ModelConfiguration:
    """The configuration with what a checkpoint's files say about ending an answer.

    EOS ids are config.json's ``eos_token_id``, else its ``text_config``'s; generation_config.json's replace them; the
    configuration's own are kept in any case. The stop strings of generation_config.json (``stop_strings``, ``stop``)
    join the effective ones. No sampling setting is read. A generation_config.json that isn't as it should be is
    left out with a warning; a bad ``eos_token_id`` in config.json is a ConfigError.
    """
    ids = _token_ids(_checkpoint_eos(config), "eos_token_id", "config.json")
    stops: set[str] = set()
    if generation_config is not None:
        try:
            own, stops = _generation_stops(generation_config)
            ids = ids if own is None else own
        except ConfigError as error:
            warnings.warn(f"{error}. The file is ignored.", stacklevel=2)
    merged = configuration.replace(eos_token_ids=configuration.eos_token_ids | set(ids))
    return merged.replace(stop_strings=merged.effective_stop_strings | stops) if stops else merged


def _checkpoint_eos(config: Mapping[str, Any]) -> Any:
    if config.get("eos_token_id") is not None:
        return config["eos_token_id"]
    inner = config.get("text_config")
    found = inner.get("eos_token_id") if isinstance(inner, Mapping) else None
    return () if found is None else found


def _generation_stops(settings: Any) -> tuple[list[int] | None, set[str]]:
    where = "generation_config.json"
    if not isinstance(settings, Mapping):
        raise ConfigError("it isn't a JSON object", where=where, found=type(settings).__name__)
    ids = settings.get("eos_token_id")
    stops: set[str] = set()
    for name in ("stop_strings", "stop"):
        value = settings.get(name)
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{name} must be a text or a list of texts", where=where, found=repr(value)[:60])
        stops.update(filter(None, texts))
    return None if ids is None else _token_ids(ids, "eos_token_id", where), stops


def _token_ids(value: Any, name: str, where: object) -> list[int]:
    """One id or several, as a list."""
    several = [value] if isinstance(value, int) else value
    good = isinstance(several, Iterable) and not isinstance(several, str | bytes | Mapping)
    ids: list[Any] = list(several) if good else [None]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise ConfigError(f"{name} must be a token id or a list of token ids", where=where, found=repr(value)[:60])
    return ids


# Checks that every class here shares


def _build(cls: type, settings: Any, where: object) -> Any:
    if not isinstance(settings, Mapping):
        raise ConfigError("it must be a table of settings", where=where, found=type(settings).__name__)
    _known(cls, settings, where)
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in settings]:
        raise ConfigError(f"{' and '.join(missing)} missing", where=where)
    return cls(**settings)


def _known(cls: type, settings: Iterable[Any], where: object) -> None:
    names = [f.name for f in dataclasses.fields(cls)]
    for key in settings:
        if key not in names:
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key)).lower()
            close = get_close_matches(snake, names, n=1, cutoff=0.6)
            raise ConfigError(f"{cls.__name__} has no field {str(key)[:60]!r}", where=where,
                              hint=f"Did you mean {close[0]}?" if close else f"It has {', '.join(names)}.")


def _check(owner: Any, name: str, kind: type, optional: bool = False) -> None:
    value = getattr(owner, name)
    if not isinstance(value, kind) and not (optional and value is None):
        raise ConfigError(f"{name} has the wrong type", where=type(owner).__name__, found=repr(value)[:60],
                          expected=f"{kind.__name__}{' or None' if optional else ''}")


def _strings(owner: Any, name: str) -> list[str]:
    value = getattr(owner, name)
    texts = list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else None
    if texts is None or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{name} must be a list of texts, none of them empty", where=type(owner).__name__,
                          found=repr(value)[:60])
    return texts
