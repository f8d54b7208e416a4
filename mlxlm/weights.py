"""Checkpoint names to ours: small rules, applied in order, that know module paths and not tensors.

A rule takes ``{name: array}`` and gives back another. Because it works on module paths, one rule carries the
``weight``, ``bias``, ``scales`` and ``biases`` of a module alike, quantized or not.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import mlx.core as mx

from . import piecewise
from .errors import WeightError

# long: all kinds of rules, which refer to each other

Weights = dict[str, mx.array]
KINDS = ("weight", "bias", "scales", "biases")  # what a module may hold


class Rule(Protocol):
    def __call__(self, weights: Weights, config: Any) -> Weights: ...


def _pattern(path: str) -> str:
    """A dotted path as a regular expression: ``*`` stands for one component, ``^`` binds it to the start."""
    body = re.escape(path.removeprefix("^")).replace(r"\*", r"([^.]+)")
    return ("^()" if path.startswith("^") else r"(^|\.)") + body + r"(?=\.|$)"


@dataclass(frozen=True)
class Rename:
    """Components of a path and what stands in their place: ``Rename("mlp.router", "mlp.gate")``.

    ``*`` in both stands for the same component; a leading ``^`` binds the path to the start of the name.
    """

    old: str
    new: str

    @cached_property
    def _regex(self) -> re.Pattern:
        return re.compile(_pattern(self.old))

    def path(self, name: str) -> str:
        """``name`` renamed, or as it is."""
        return self._regex.sub(self._replace, name, count=1)

    def backwards(self) -> "Rename":
        bound = "^" if self.old.startswith("^") else ""
        return Rename(bound + self.new, self.old.removeprefix("^"))

    def _replace(self, match: re.Match) -> str:
        wild = iter(match.groups()[1:])
        new = re.sub(r"\*", lambda _: next(wild), self.new)
        return match[1] + new

    def __call__(self, weights: Weights, config: Any) -> Weights:
        return {self.path(name): w for name, w in weights.items()}


@dataclass(frozen=True)
class Suffix:
    """A tensor that isn't spelled ``module.kind``: ``Suffix("experts.up_proj_bias", "experts.up_proj.bias")``."""

    old: str
    new: str

    def backwards(self) -> "Suffix":
        return Suffix(self.new, self.old)

    def __call__(self, weights: Weights, config: Any) -> Weights:
        end = f".{self.old}"
        return {(n[: -len(end)] + f".{self.new}" if n.endswith(end) else n): w for n, w in weights.items()}


@dataclass(frozen=True)
class Drop:
    """Tensors that no module of ours holds, by path: ``Drop("^mtp")``."""

    old: str

    def __call__(self, weights: Weights, config: Any) -> Weights:
        regex = re.compile(_pattern(self.old))
        return {n: w for n, w in weights.items() if not regex.search(n)}


@dataclass(frozen=True)
class Lift:
    """A part of a larger model taken for the whole: its prefix goes, and what lies beside it goes too.

    ``Lift("language_model")`` leaves a checkpoint without that prefix as it is.
    """

    prefix: str

    def path(self, name: str) -> str:
        """``name`` without the prefix."""
        return name.removeprefix(f"{self.prefix}.")

    def __call__(self, weights: Weights, config: Any) -> Weights:
        start = f"{self.prefix}."
        inner = {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
        return inner or weights


@dataclass(frozen=True)
class Stack:
    """A module for each expert becomes one with an expert axis: ``Stack("experts.*.w1", "switch_mlp.gate_proj")``."""

    old: str
    new: str

    def __call__(self, weights: Weights, config: Any) -> Weights:
        regex = re.compile(r"(.*?\.?)" + re.escape(self.old).replace(r"\*", r"(\d+)") + r"\.(\w+)$")
        out: Weights = {}
        found: dict[tuple[str, str], dict[int, mx.array]] = {}
        for name, w in weights.items():
            match = regex.fullmatch(name)
            if match and (not match[1] or match[1].endswith(".")):
                found.setdefault((match[1], match[3]), {})[int(match[2])] = w
            else:
                out[name] = w
        for (prefix, kind), experts in found.items():
            out[f"{prefix}{self.new}.{kind}"] = self._stacked(f"{prefix}{self.old}.{kind}", experts)
        return out

    @staticmethod
    def _stacked(name: str, experts: dict[int, mx.array]) -> mx.array:
        if missing := sorted(set(range(max(experts) + 1)) - set(experts)) if max(experts) < 1 << 16 else [0]:
            raise WeightError(
                "experts are missing from the checkpoint",
                where=name,
                found=f"none for {missing[:20]}",
                hint="The download may be incomplete: pull the model again.",
            )
        if len(shapes := {tuple(w.shape) for w in experts.values()}) > 1:
            raise WeightError("experts differ in shape", where=name, found=sorted(shapes)[:4])
        return piecewise.stack([experts[i] for i in range(len(experts))])


@dataclass(frozen=True)
class Split:
    """One fused module becomes several along the output axis: ``Split("qkv_proj", ("q_proj", …), sizes)``.

    ``sizes(config)`` gives the rows of each part; None splits evenly; ``interleaved`` takes every n-th row.
    ``rows(config)`` lists the rows of each part one by one, for parts that lie mixed.
    """

    old: str
    into: tuple[str, ...]
    sizes: Callable[[Any], list[int]] | None = None
    interleaved: bool = False
    rows: Callable[[Any], list[list[int]]] | None = None

    def paths(self, path: str) -> list[str]:
        """The paths of the parts of a fused module, or the path alone."""
        head = path.removesuffix(f".{self.old}")
        return [path] if head == path else [f"{head}.{part}" for part in self.into]

    def backwards(self) -> "Fuse":
        return Fuse(self.into, self.old, self.rows)

    def __call__(self, weights: Weights, config: Any) -> Weights:
        out: Weights = {}
        for name, w in weights.items():
            head, found, kind = name.rpartition(f".{self.old}.")
            if not found or "." in kind:
                out[name] = w
                continue
            for part, x in zip(self.into, self._parts(name, kind, w, config), strict=True):
                out[f"{head}.{part}.{kind}"] = x
        return out

    def axis(self, kind: str, w: mx.array, config: Any) -> int:
        """The output axis of a module's tensor."""
        return w.ndim - 1 if kind == "bias" else max(w.ndim - 2, 0)

    def cut(self, name: str, config: Any) -> list[int] | None:
        """The rows of each part of the module that holds the tensor ``name``; None for even parts."""
        return self.sizes(config) if self.sizes else None

    def _parts(self, name: str, kind: str, w: mx.array, config: Any) -> list[mx.array]:
        axis = self.axis(kind, w, config)
        rows, n = w.shape[axis], len(self.into)
        chosen = self.rows(config) if self.rows else None
        sizes = [len(c) for c in chosen] if chosen else self.cut(name, config) or [rows // n] * n
        if sum(sizes) != rows:
            raise WeightError(
                "a fused tensor doesn't hold the rows that the config asks for",
                where=name,
                found=tuple(w.shape),
                expected=f"{sum(sizes)} rows ({' + '.join(map(str, sizes))})",
            )
        if chosen:
            return [mx.take(w, mx.array(c), axis=axis) for c in chosen]
        if self.interleaved:
            return [w[(slice(None),) * axis + (slice(i, None, n),)] for i in range(n)]
        cuts = [sum(sizes[: i + 1]) for i in range(n - 1)]
        return list(mx.split(w, cuts, axis=axis))


@dataclass(frozen=True)
class Fuse:
    """The way back from ``Split``: several modules become one along the output axis.

    Modules that don't agree in what they hold (their quantization differs) stay apart. ``rows(config)`` lists the
    rows of each part within the whole, where they lie mixed.
    """

    parts: tuple[str, ...]
    new: str
    rows: Callable[[Any], list[list[int]]] | None = None

    def path(self, path: str) -> str:
        """The path of the whole that a part goes into, or the path as it is."""
        for part in self.parts:
            if path.endswith(f".{part}"):
                return path.removesuffix(part) + self.new
        return path

    def __call__(self, weights: Weights, config: Any) -> Weights:
        first, found = f".{self.parts[0]}.", {}
        for name in weights:
            head, middle, kind = name.rpartition(first)
            if middle and "." not in kind:
                found.setdefault(head, []).append(kind)
        out = dict(weights)
        for head, kinds in found.items():
            whole = self._whole(head, kinds, weights, config)
            if whole is None:
                continue
            for kind in kinds:
                for part in self.parts:
                    del out[f"{head}.{part}.{kind}"]
                out[f"{head}.{self.new}.{kind}"] = whole[kind]
        return out

    def _whole(self, head: str, kinds: list[str], weights: Weights, config: Any) -> Weights | None:
        whole: Weights = {}
        for kind in kinds:
            parts = [weights.get(f"{head}.{part}.{kind}") for part in self.parts]
            present = [w for w in parts if w is not None]
            axis = present[0].ndim - 1 if kind == "bias" else max(present[0].ndim - 2, 0)
            looks = {(w.dtype, *w.shape[:axis], -1, *w.shape[axis + 1 :]) for w in present}
            if len(present) < len(parts) or len(looks) > 1:
                return None
            whole[kind] = mx.concatenate(present, axis=axis)
            if self.rows:
                order = [row for rows in self.rows(config) for row in rows]
                whole[kind] = mx.take(whole[kind], mx.argsort(mx.array(order)), axis=axis)
        held = {kind for part in self.parts for kind in KINDS if f"{head}.{part}.{kind}" in weights}
        return whole if held == set(kinds) else None


@dataclass(frozen=True)
class Each:
    """``change(array, config)`` for every tensor at a path: ``Each("conv1d.weight", conv1d_to_mlx)``."""

    old: str
    change: Callable[[mx.array, Any], mx.array]

    def __call__(self, weights: Weights, config: Any) -> Weights:
        regex = re.compile(_pattern(self.old))
        return {n: self.change(w, config) if regex.search(n) else w for n, w in weights.items()}


@dataclass(frozen=True)
class When:
    """Rules that apply only where the config says so."""

    test: Callable[[Any], bool]
    rules: tuple

    def __call__(self, weights: Weights, config: Any) -> Weights:
        return apply(self.rules, weights, config) if self.test(config) else weights


@dataclass(frozen=True)
class TextRules:
    """The rules of a multimodal model's text half (``names``, ``values`` or ``saved``), beneath its prefix.

    The config's ``text_config`` is a `TextHalf`.
    """

    prefix: str = "language_model"
    kind: str = "names"

    def path(self, path: str, config: Any) -> list[str]:
        """What the text half's rules make of a module path."""
        start = f"{self.prefix}."
        if config is None or not path.startswith(start):
            return [path]
        rules = getattr(config.text_config.architecture, self.kind)
        return [start + p for p in rename_path(rules, path.removeprefix(start), config.text_config.config)]

    def __call__(self, weights: Weights, config: Any) -> Weights:
        start, text = f"{self.prefix}.", config.text_config
        inner = {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
        inner = apply(getattr(text.architecture, self.kind), inner, text.config)
        return {n: w for n, w in weights.items() if not n.startswith(start)} | {start + n: w for n, w in inner.items()}


@dataclass(frozen=True)
class Half:
    """One part of a larger model taken for the whole: what is beneath ``prefix`` once ``names`` have had their say.

    ``names`` are the larger model's rules, and ``config`` is its config.
    """

    prefix: str
    names: tuple
    config: Any

    def path(self, path: str) -> list[str]:
        """What becomes of a module path."""
        return [p.removeprefix(f"{self.prefix}.") for p in rename_path(self.names, path, self.config)]

    def __call__(self, weights: Weights, config: Any) -> Weights:
        return Lift(self.prefix)(apply(self.names, weights, self.config), config)


def conv1d_to_mlx(w: mx.array, config: Any) -> mx.array:
    """A depthwise kernel, (channels, 1, width) as torch lays it out, to (channels, width, 1)."""
    return w.moveaxis(2, 1)


def swap_last(w: mx.array, config: Any) -> mx.array:
    """(..., in, out) to (..., out, in): the same numbers in another order, until `kernels.settle` lays them out."""
    return w.swapaxes(-1, -2)


def apply(rules: Iterable[Rule], weights: Weights, config: Any) -> Weights:
    """``weights`` after every rule, in order."""
    for rule in rules:
        weights = rule(weights, config)
    return weights


def backwards(*rules: Any) -> tuple[Rule, ...]:
    """The rules that undo ``rules``: of Rename, Suffix and Split, which can be undone."""
    return tuple(rule.backwards() for rule in reversed(rules))


def rename_path(rules: Iterable[Rule], path: str, config: Any = None) -> list[str]:
    """What the renaming and splitting rules make of a module path (a per-layer quantization key)."""
    paths = [path]
    for rule in rules:
        if isinstance(rule, Rename | Lift | Fuse):
            paths = [rule.path(p) for p in paths]
        elif isinstance(rule, Split):
            paths = [part for p in paths for part in rule.paths(p)]
        elif isinstance(rule, TextRules):
            paths = [part for p in paths for part in rule.path(p, config)]
        elif isinstance(rule, Half):
            paths = [part for p in paths for part in rule.path(p)]
    return paths


def qkv_sizes(config: Any) -> list[int]:
    """The rows of queries, keys and values that lie one after the other in a fused projection."""
    kv = config.num_key_value_heads * config.head_dim
    return [config.num_attention_heads * config.head_dim, kv, kv]


def qkv_rows(config: Any) -> list[list[int]]:
    """The rows of queries, keys and values that lie together group by group: a group's queries, its key, its value."""
    each, dim = config.num_attention_heads // config.num_key_value_heads, config.head_dim
    groups = [g * (each + 2) * dim for g in range(config.num_key_value_heads)]
    return [
        [start + row for start in groups for row in range(low * dim, high * dim)]
        for low, high in ((0, each), (each, each + 1), (each + 1, each + 2))
    ]


def stacked(*projections: str, old: str = "mlp.experts.*", new: str = "mlp.switch_mlp") -> tuple[Stack, ...]:
    """The usual rules for experts that a checkpoint keeps one by one."""
    return tuple(Stack(f"{old}.{p}", f"{new}.{p}") for p in projections)


def expert_rules(at: str, apart: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"), to: str = "switch_mlp"):
    """Experts of the module ``at``, kept one by one under the names ``apart`` or in fused tensors, to ``at.to``."""
    ours = ("gate_proj", "up_proj", "down_proj")
    return (
        *(Stack(f"{at}.experts.*.{old}", f"{at}.{to}.{new}") for old, new in zip(apart, ours, strict=True)),
        Suffix(f"{at}.experts.gate_up_proj", f"{at}.{to}.gate_up_proj.weight"),
        Suffix(f"{at}.experts.down_proj", f"{at}.{to}.down_proj.weight"),
        Split(f"{to}.gate_up_proj", (f"{to}.gate_proj", f"{to}.up_proj")),
    )


# Experts as transformers 5 keeps them in memory: one tensor for gate and up, and tensors without ``.weight``.
FUSED_EXPERTS = (
    Suffix("mlp.experts.gate_up_proj", "mlp.switch_mlp.gate_up_proj.weight"),
    Suffix("mlp.experts.down_proj", "mlp.switch_mlp.down_proj.weight"),
    Split("switch_mlp.gate_up_proj", ("switch_mlp.gate_proj", "switch_mlp.up_proj")),
)

# GPT-2's words for what everyone else calls otherwise, with and without the prefix.
GPT_BODY = (
    Rename("^model.h", "model.layers"),
    Rename("^model.wte", "model.embed_tokens"),
    Rename("^model.ln_f", "model.norm"),
    Rename("layers.*.ln_1", "layers.*.input_layernorm"),
    Rename("layers.*.ln_2", "layers.*.post_attention_layernorm"),
)
GPT_NAMES = (
    Rename("^transformer", "model"),
    *(Rename(f"^{name}", f"model.{name}") for name in ("h", "wte", "wpe", "ln_f")),
    *GPT_BODY,
)
QKV = ("q_proj", "k_proj", "v_proj")
FUSED_QKV = Split("qkv_proj", QKV, qkv_sizes)
FUSED_MLP = Split("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))
