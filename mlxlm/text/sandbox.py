"""The jinja2 environment of chat templates: Hugging Face's names in an immutable sandbox that counts what it spends.

Source of the names: the page on chat templating in transformers' documentation. jinja2's own sandbox bounds `range`
alone; here loops, macros, filters, calls, operators and literals are charged to the budget of the rendering.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from jinja2 import TemplateError as RefusedByTemplate
from jinja2 import ext, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlxlm.text import amplifiers
from mlxlm.text.limits import CONTAINERS, current


class CountingCode(CodeGenerator):
    """Compiles templates so that every step and every new value passes through the environment."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.body.insert(0, _step(node))
        if node.test is not None:
            node.test = nodes.And(nodes.EnvironmentAttribute("step"), node.test).set_lineno(node.lineno)
        super().visit_For(node, frame)

    def macro_body(self, node: Any, frame: Frame) -> Any:
        node.body.insert(0, _step(node))
        return super().macro_body(node, frame)

    def visit_EnvironmentAttribute(self, node: nodes.EnvironmentAttribute, frame: Frame) -> None:
        super().visit_EnvironmentAttribute(node, frame)
        self.write("()")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.write("environment.finalize(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        self._made(super().visit_Getitem, node, frame, isinstance(node.arg, nodes.Slice))

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._made(super().visit_List, node, frame, bool(node.items))

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._made(super().visit_Dict, node, frame, bool(node.items))

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        self._made(super().visit_Tuple, node, frame, bool(node.items) and node.ctx == "load")

    def _made(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame, charged: bool) -> None:
        self.write("environment.made(" if charged else "")
        visit(node, frame)
        self.write(")" if charged else "")


def _step(node: nodes.Node) -> nodes.Node:
    return nodes.ExprStmt(nodes.EnvironmentAttribute("step")).set_lineno(node.lineno)


class GenerationBlocks(ext.Extension):
    """`{% generation %}…{% endgeneration %}`: passes the text through and notes where it stands."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own type)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("passed"), [], [], body).set_lineno(line)

    def passed(self, caller: Callable[[], str]) -> str:
        budget = current()
        text = caller()
        budget.spans.append((budget.written, budget.written + len(text)))
        return text


class ChatNamespace(Namespace):
    """`namespace(…)` without private names, and without a printed form that could grow without end."""

    def __init__(*args: Any, **kwargs: Any):
        self, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)  # pyright: ignore[reportArgumentType]

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace can't hold the private name {name!r}")


class ChatDict:
    """`dict(…)` and `dict.fromkeys(…)`, and no other door into the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict:
        return dict.fromkeys(keys, value)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """What chat templates see, as transformers sets it up, but for `lipsum`."""

    code_generator_class = CountingCode
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, ext.loopcontrols],
                         finalize=_text, optimized=False, cache_size=0)
        self.filters["tojson"] = tojson
        self.filters = {name: _counted(name, function) for name, function in self.filters.items()}
        self.tests = {name: _counted(name, function) for name, function in self.tests.items()}
        self.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, dict=ChatDict(),
                            namespace=ChatNamespace)
        del self.globals["lipsum"]

    @staticmethod
    def step() -> bool:
        return current().step()

    @staticmethod
    def made(value: Any) -> Any:
        return current().made(value)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        budget, kept = current(), list(parts)
        budget.room(sum(map(len, kept)))
        return budget.made("".join(kept))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = current()
        amplifiers.operation(budget, operator, left, right)
        return budget.made(super().call_binop(context, operator, left, right))

    # The leading underscores keep these names out of the way of keyword arguments.
    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.step()
        if sum(isinstance(value, CONTAINERS) for value in (*args, *kwargs.values())) > 1:
            budget.weight([*args, *kwargs.values()])
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, (str, int)):
            name = getattr(__obj, "__name__", "")
            args = _listed(args) if name == "join" else args
            amplifiers.METHODS.get(name, _unchecked)(budget, owner, *args, **kwargs)
        return budget.made(super().call(__context, __obj, *args, **kwargs))


def _unchecked(*_: Any, **__: Any) -> None:
    return None


def _listed(args: tuple) -> tuple:
    """Makes a list of a generator in front, so that its size is known."""
    if args and not isinstance(args[0], (str, *CONTAINERS)) and hasattr(args[0], "__iter__"):
        return (current().made(list(args[0])), *args[1:])
    return args


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that counts a step, checks what it is about to make, and charges for what it made."""
    check = amplifiers.FILTERS.get(name)
    leading = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.step()
        if check is not None:
            rest = _listed(args[leading:])
            args = (*args[:leading], *rest)
            check(budget, *rest, **kwargs)
        return budget.made(function(*args, **kwargs))

    return counted


def _text(value: Any) -> str:
    """What `{{ value }}` prints."""
    if isinstance(value, str):
        return value
    budget = current()
    budget.room(budget.weight(value))
    return budget.made(str(value))


def raise_exception(message: Any) -> None:
    raise RefusedByTemplate(str(message))


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
           sort_keys: bool = False) -> str:
    """JSON without jinja2's HTML escapes."""
    amplifiers.written_as_json(current(), value, indent, separators)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
