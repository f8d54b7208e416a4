"""Checks of arguments: a GenerationError names the argument, what was found and what was expected."""
import difflib
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real

from ..errors import GenerationError


def number(name: str, value, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite real number from ``low`` to ``high``, both included."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise _refused("not a number", name, value, "a number", low, high)
    if not low <= float(value) <= high:
        raise _refused("out of range", name, value, "a number", low, high)
    return float(value)


def integer(name: str, value, low: float = -math.inf, high: float = math.inf) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _refused("not a whole number", name, value, "a whole number", low, high)
    if not low <= int(value) <= high:
        raise _refused("out of range", name, value, "a whole number", low, high)
    return int(value)


def several(name: str, values, of: str) -> list:
    """A list of what is listed, none for None; text isn't a list. ``of`` says what the items should be."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable | None):
        raise GenerationError("not a list", where=name, found=shown(values), expected=f"a list of {of}")
    return list(values or ())


def function(name: str, value) -> Callable | None:
    """A function, or None."""
    if value is not None and not callable(value):
        raise GenerationError("not a function", where=name, found=shown(value))
    return value


def unknown(kind: str, name: str, known: Iterable[str], hint: str | None = None) -> GenerationError:
    """The error for a name that isn't among ``known``; it offers the closest one."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}?" if close else hint
    return GenerationError(f"unknown {kind} {name!r}", expected=f"one of {', '.join(known)}", hint=hint)


def shown(value) -> str:
    """A value as an error message shows it: short, with its type where that is the point."""
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if isinstance(value, (int, float, str, type(None))) else f"{text} ({type(value).__name__})"


def _refused(problem: str, name: str, value, kind: str, low: float, high: float) -> GenerationError:
    at_least = f" of {low:g} or more" if low > -math.inf else ""
    bounds = f" from {low:g} to {high:g}" if high < math.inf else at_least
    return GenerationError(problem, where=name, found=shown(value), expected=kind + bounds)
