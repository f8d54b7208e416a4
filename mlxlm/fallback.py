"""Types that we don't build ourselves, borrowed from an installed mlx-lm or mlx-vlm under our contract of a model.

Which types there are is read off the package's files; the package itself (seconds of imports) loads to build one.
"""

import inspect
import re
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .config import may_matter
from .errors import ConfigError, GenerationError

# A module is a model if it defines, or takes from its neighbour, both of these.
_OFFERS = {
    "mlx_lm": ("ModelArgs", re.compile(r"^(?:class |from \S+ import .*\b)ModelArgs\b", re.M)),
    "mlx_vlm": ("ModelConfig", re.compile(r"(?s)(?=.*\bModelConfig\b).*\bLanguageModel\b")),
}


class Fallback:
    """The models of another package, found without importing it."""

    def __init__(self, package: str, requirement: str):
        self.package, self.requirement = package, requirement

    @property
    def folder(self) -> Path | None:
        """Where the package keeps its models; None if it isn't installed."""
        return _models_folder(self.package)

    @property
    def installed(self) -> bool:
        return self.folder is not None

    def modules(self) -> dict[str, str]:
        """Module name to dotted name, for every module that is a model."""
        return _modules(self.package, self.folder) if self.folder else {}

    def types(self, renames: dict[str, str]) -> dict[str, str]:
        """model_type to dotted module name, with the types that go by another module's name."""
        modules = self.modules()
        return modules | {t: modules[name] for t, name in renames.items() if name in modules}

    def module(self, model_type: str, renames: dict[str, str]) -> str | None:
        """The dotted name of the module that builds ``model_type``, or None."""
        return self.modules().get(renames.get(model_type, model_type))

    def architecture(self, module: str) -> Architecture:
        """Builds from the config.json as it is; the checkpoint's weights go through the model's ``sanitize``."""
        return Architecture(dict, lambda config: self._build(module, config))

    def _build(self, module: str, config: dict[str, Any]) -> Any:
        try:
            code = import_module(module)
        except (ImportError, SystemExit) as error:  # some end the program where a package of theirs is missing
            raise ConfigError(f"{self.requirement} can't load its own module: {error!r}", where=module,
                              hint="Install the packages that it needs.") from error
        settings_class = getattr(code, _OFFERS[self.package][0])
        known = set(inspect.signature(settings_class).parameters)
        spelled = _spell(config, known, module)
        try:
            settings = settings_class.from_dict(spelled)
            model = _adapted(code.Model)(settings)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ConfigError(f"{self.requirement} can't build a {config.get('model_type')!r} from it: {error}",
                              where="config.json") from error
        model.config = settings
        model.model_type = str(config.get("model_type", ""))
        return model


@cache
def _models_folder(package: str) -> Path | None:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place, "models")
        if folder.is_dir():
            return folder
    return None


@cache
def _modules(package: str, folder: Path) -> dict[str, str]:
    pattern = _OFFERS[package][1]
    files = {path.stem: path for path in folder.glob("*.py")}
    files |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    return {name: f"{package}.models.{name}" for name, path in sorted(files.items())
            if pattern.search(path.read_text(encoding="utf-8", errors="replace"))}


def _spell(config: dict[str, Any], known: set[str], module: str) -> dict[str, Any]:
    """The config in the older dialect where the module knows no other; warns of keys that it would drop."""
    spelled = dict(config)
    rope = spelled.get("rope_parameters")
    if isinstance(rope, dict) and "rope_parameters" not in known:
        spelled = {**_older_rope(rope, known, module), **spelled}
        del spelled["rope_parameters"]
    dropped = [key for key, value in spelled.items() if key not in known and may_matter(key, value)]
    if dropped:
        warnings.warn(f"{module} ignores {', '.join(sorted(dropped))} of config.json: its answers may differ "
                      f"from the original model's", stacklevel=5)
    return spelled


def _older_rope(rope: dict[str, Any], known: set[str], module: str) -> dict[str, Any]:
    """transformers 5's rope_parameters in the keys that transformers 4 had for them."""
    kinds = {name: part for name, part in rope.items() if isinstance(part, dict)}
    older: dict[str, Any] = {}
    if kinds:
        full = kinds.pop("full_attention", None) or next(iter(kinds.values()))
        local = kinds.get("sliding_attention")
        if local is not None and "rope_local_base_freq" in known:
            older["rope_local_base_freq"] = local.get("rope_theta")
        elif any(part != full for part in kinds.values()):
            raise ConfigError("rope_parameters differ by layer type, which this module can't express",
                              where=module, found=", ".join(sorted(rope)))
        rope = full
    older |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in (None, "default"):
        older["rope_scaling"] = {**rope, "type": kind, "rope_type": kind}
    return older


# The contract of a model, over modules that know nothing of it


@cache
def _adapted(model_class: type) -> type:
    return type(model_class.__name__, (_contract(), model_class), {"__module__": model_class.__module__})


@cache
def _contract() -> type:
    """The mixin that turns a module of mlx-lm's or mlx-vlm's shape into one of ours."""
    from copy import deepcopy

    from mlx.utils import tree_flatten

    from .cache import Checkpoint, State

    class Borrowed(State):
        """A State over the other package's caches, which don't all count their tokens."""

        def __init__(self, caches: Any, offset: int = 0, left_padding: Sequence[int] | None = None):
            super().__init__((), left_padding)
            self.extend(caches)
            self.offset = offset

        @property
        def arrays(self) -> list[Any]:
            states = [cache.state for cache in self if not cache.empty()]
            return [leaf for _, leaf in tree_flatten(states) if hasattr(leaf, "nbytes")]

        def can_trim(self, n: int = 1) -> bool:
            return n <= self.offset and all(c.is_trimmable() for c in self)

        def copy(self) -> "Borrowed":
            return type(self)((deepcopy(c) for c in self), self.offset, self.left_padding)

        def checkpoint(self, ahead: int | None = None) -> Checkpoint:
            return Checkpoint(self.offset, self.expected, tuple(deepcopy(c) for c in self), self.shift)

        def rewind(self, checkpoint: Checkpoint) -> int:
            n = self.offset - checkpoint.offset
            self[:] = [deepcopy(c) for c in checkpoint.layers]
            self.offset, self.expected = checkpoint.offset, checkpoint.expected
            return n

        @property
        def nbytes(self) -> int:
            return sum(c.nbytes for c in self if not c.empty())

    class Contract:
        def make_cache(self, max_kv_size: int | None = None, left_padding: Sequence[int] | None = None):
            inner: Any = super()
            caches = inner.make_cache() if hasattr(inner, "make_cache") else _default_caches(self, max_kv_size)
            if left_padding is not None and any(left_padding):
                caches = [_padded(c, list(left_padding)) for c in caches]
            return Borrowed(caches, left_padding=left_padding)

        def __call__(self, tokens: Any, cache: Any = None, **media: Any) -> Any:
            if cache is None:
                cache = self.make_cache()
            elif not isinstance(cache, Borrowed):
                cache = Borrowed(cache)
            inner: Any = super()
            out = inner.__call__(tokens, cache=cache, **media)
            cache.offset += tokens.shape[1]
            return getattr(out, "logits", out)

    return Contract


def _default_caches(model: Any, max_kv_size: int | None) -> list[Any]:
    caches = import_module(f"{type(model).__module__.partition('.')[0]}.models.cache")
    if max_kv_size is None:
        return [caches.KVCache() for _ in model.layers]
    return [caches.RotatingKVCache(max_size=max_kv_size, keep=4) for _ in model.layers]


def _padded(cache: Any, left_padding: list[int]) -> Any:
    """The batch kind of one layer's cache, for rows that start with padding."""
    caches = import_module(type(cache).__module__)
    if type(cache) is caches.KVCache:
        return caches.BatchKVCache(left_padding)
    if type(cache) is caches.RotatingKVCache and not cache.keep:
        return caches.BatchRotatingKVCache(cache.max_size, left_padding)
    if type(cache) is caches.ArraysCache:
        return caches.ArraysCache(len(cache.cache), left_padding)
    raise GenerationError("this model can't take rows of different lengths in one batch",
                          found=type(cache).__name__, hint="Run the prompts one by one.")
