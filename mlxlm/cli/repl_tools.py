"""Python functions as tools of a conversation, named ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from ..errors import UsageError
from ..tools.functions import is_model, tool_schema

EXPECTED = "MODULE:FUNCTION, such as weather:forecast or ./weather.py:forecast"


def named_tools(names: Iterable[str]) -> dict[str, Callable]:
    """The functions, by the names that the model is told. Raises UsageError for one that can't be had."""
    found: dict[str, Callable] = {}
    for name in names:
        function = named_tool(name)
        found[tool_schema(function, name)["function"]["name"]] = function
    return found


def named_tool(name: str) -> Callable:
    """One function. Its module is imported, which runs the module's own code."""
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise UsageError("not a function's name", where="--tool", found=repr(name), expected=EXPECTED)
    function = getattr(_module(where), attribute, None)
    if not callable(function) or is_model(function):
        raise UsageError("the module has no such function", where=f"--tool {name}", found=repr(attribute),
                         expected=EXPECTED)
    return function


def _module(name: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _file(Path(name).expanduser())
        sys.path.insert(0, "")  # as `python -m` has it
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove("")
    except Exception as error:  # broad: the module is the user's code, and whatever it raises ends its import
        raise UsageError(f"the module can't be imported ({type(error).__name__}: {error})", where=f"--tool {name}",
                         expected=EXPECTED) from error


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # type hints are looked up there
    spec.loader.exec_module(module)
    return module
