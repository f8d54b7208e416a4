"""Filters and methods that turn little into much: how much, worked out before they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from mlxlm.text.limits import CONTAINERS, Budget, TemplateLimit

WIDEST = 100_000
"""The largest field width, indentation or column count that a template may ask for."""
SLOW_INPUT = 1 << 20
"""The most characters for what takes more than linear time."""

_NUMBER = re.compile(r"\d{6,}")
Check = Callable[..., Any]


def _wide(value: Any) -> int:
    if isinstance(value, int) and abs(value) > WIDEST:
        raise TemplateLimit(f"the chat template asks for a width of more than {WIDEST:,}")
    return max(0, value) if isinstance(value, int) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, *CONTAINERS)) else 8


def _padded(budget: Budget, text: Any, width: Any = 80, *_: Any, **__: Any) -> None:
    budget.room(_wide(width))


def _tabbed(budget: Budget, text: str, tabsize: Any = 8) -> None:
    budget.room(len(text) + text.count("\t") * _wide(tabsize))


def _joined(budget: Budget, separator: Any, items: Iterable[Any]) -> None:
    """Only containers come here; the sandbox makes lists of generators first."""
    budget.room(budget.weight(items) + _length(separator) * _length(items))


def _join_filter(budget: Budget, items: Any, d: Any = "", attribute: Any = None) -> None:
    _joined(budget, d, items)


def _replaced(budget: Budget, text: Any, old: Any, new: Any, count: Any = None) -> None:
    text, old, new = (part if isinstance(part, str) else str(part) for part in (text, old, new))
    budget.room(len(text) + text.count(old) * len(new))


def _indented(budget: Budget, text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    each = len(width) if isinstance(width, str) else _wide(width)
    budget.room(_length(text) + (str(text).count("\n") + 1) * each)


def _rows(budget: Budget, items: Any, count: Any, fill_with: Any = None) -> None:
    budget.room(_wide(count) * budget.weight(fill_with))


def _wrapped(budget: Budget, text: Any, width: Any = 79, break_long_words: Any = True, wrapstring: Any = None,
             *_: Any, **__: Any) -> None:
    lines = _length(text) // max(_wide(width), 1) + str(text).count("\n") + 1
    budget.room(_length(text) + lines * max(1, _length(wrapstring or "\n")))


def _slow(budget: Budget, value: Any, *_: Any, **__: Any) -> None:
    if budget.weight(value) > SLOW_INPUT:
        raise TemplateLimit("the chat template uses a slow filter on too much text")


def _rounded(budget: Budget, value: Any, precision: Any = 0, *_: Any, **__: Any) -> None:
    if isinstance(precision, int) and abs(precision) > 1000:
        raise TemplateLimit("the chat template rounds to more than 1000 digits")


def _translated(budget: Budget, text: str, table: Any) -> None:
    longest = max((_length(value) for value in table.values()), default=1) if isinstance(table, dict) else 1
    budget.room(len(text) * longest)


def formatted(budget: Budget, pattern: str, *args: Any, **kwargs: Any) -> None:
    """`%` and `str.format`: the widths and the arguments, each as often as there are fields."""
    values = [*args, *kwargs.values()]
    numbers = any(isinstance(value, int) and abs(value) > WIDEST for value in _flat(values))
    starred = "*" in pattern or re.search(r"\{[^{}]*\{", pattern)
    if _NUMBER.search(pattern) or (starred and numbers):
        raise TemplateLimit(f"the chat template asks for a width of more than {WIDEST:,}")
    fields = pattern.count("%") + pattern.count("{")
    budget.room(len(pattern) + fields * max((budget.weight(value) for value in values), default=0))


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _searched(budget: Budget, value: Any, items: Any) -> None:
    budget.step(_length(items) // 100)


def _refused(budget: Budget, *_: Any, **__: Any) -> None:
    raise TemplateLimit("the chat template works with bytes")


def written_as_json(budget: Budget, value: Any, indent: Any, separators: Any) -> None:
    longest = max([indent if isinstance(indent, int) else _length(indent or ""), *map(len, separators or ())])
    if longest > 64:
        raise TemplateLimit("the chat template asks for JSON with an indent or separator of more than 64")
    budget.room(budget.weight(value))


FILTERS: dict[str, Check] = {
    "in": _searched,
    "center": _padded, "join": _join_filter, "replace": _replaced, "indent": _indented, "batch": _rows,
    "slice": _rows, "wordwrap": _wrapped, "format": formatted, "round": _rounded,
    "urlize": _slow, "striptags": _slow, "pprint": _slow, "sum": _slow, "xmlattr": _slow, "unique": _slow,
}
"""By the name of a filter or test; each takes what it takes."""

METHODS: dict[str, Check] = {
    "center": _padded, "ljust": _padded, "rjust": _padded, "zfill": _padded, "expandtabs": _tabbed,
    "join": _joined, "replace": _replaced, "translate": _translated, "format": formatted,
    "format_map": formatted, "encode": _refused, "to_bytes": _refused,
}


def operation(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """The operators that can blow up: powers, repetitions, sums and `%`."""
    if operator == "%" and isinstance(left, str):
        formatted(budget, left, *(right if isinstance(right, tuple) else (right,)))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        if right > 0:
            budget.room(0 if left.bit_length() * right <= 4096 else budget.characters + 1)
    elif operator == "*":
        for many, count in ((left, right), (right, left)):
            if isinstance(many, (str, list, tuple)) and isinstance(count, int):
                budget.room(max(0, count) * max(1, budget.weight(many)))
    elif operator == "+" and isinstance(left, (str, list, tuple)):
        budget.room(_length(left) + _length(right))
