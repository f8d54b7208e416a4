"""The face of the package: a public name is imported when it is first used, so `import mlxlm` is free.

``mlxlm.load`` and ``mlxlm.generate`` are always the functions, although modules of these names exist beside
them.
"""
import sys
from types import ModuleType

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .chat import ChatSession
    from .configuration import ModelConfiguration
    from .errors import MLXLMError
    from .generate import generate, stream_generate
    from .generate.engine import BatchEngine, batch_generate
    from .load import load, load_model
    from .registry import LLMRegistry, LLMTypeRegistry, VLMRegistry, VLMTypeRegistry

_HOME = {
    "load": "load",
    "load_model": "load",
    "generate": "generate",
    "stream_generate": "generate",
    "batch_generate": "generate.engine",
    "BatchEngine": "generate.engine",
    "ChatSession": "chat",
    "ModelConfiguration": "configuration",
    "LLMRegistry": "registry",
    "VLMRegistry": "registry",
    "LLMTypeRegistry": "registry",
    "VLMTypeRegistry": "registry",
    "MLXLMError": "errors",
}

__all__ = [  # noqa: RUF022 (the order of use, not of the alphabet)
    "load", "load_model", "generate", "stream_generate", "ChatSession", "batch_generate", "BatchEngine",
    "ModelConfiguration", "LLMRegistry", "VLMRegistry", "LLMTypeRegistry", "VLMTypeRegistry", "MLXLMError",
    "__version__",
]


def _resolve(name: str):
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __getattr__(name: str):
    if name == "tools":
        from importlib import import_module

        return import_module(f"{__name__}.tools")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _resolve(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "tools"})


class _Face(ModuleType):
    """Python makes a submodule an attribute of its package; it must not hide the function of its name."""


def _function(name: str) -> property:
    key = f"_{name}_function"

    def read(face):
        if key not in face.__dict__:
            face.__dict__[key] = _resolve(name)
        return face.__dict__[key]

    def write(face, value):
        if not isinstance(value, ModuleType):
            face.__dict__[key] = value

    return property(read, write)


_Face.load = _function("load")  # type: ignore[attr-defined]
_Face.generate = _function("generate")  # type: ignore[attr-defined]
sys.modules[__name__].__class__ = _Face
