"""What becomes of each weight: recipes from a module's path to bits, group size and mode.

``mixed`` gives more bits where a byte saves most: much to the values of all layers, which are few, and a little to
embedding and head, and to the down projections of the first and last eighth of the layers. Routers stay at 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..errors import UsageError

GROUP_SIZES = {"affine": (32, 64, 128), "mxfp4": (32,), "mxfp8": (32,), "nvfp4": (16,)}
BITS = {"affine": (2, 3, 4, 5, 6, 8), "mxfp4": (4,), "mxfp8": (8,), "nvfp4": (4,)}
HIGH = {2: 4, 3: 5, 4: 6, 5: 6, 6: 8, 8: 8}
"""The bits of what is few and matters much, beside those of the rest."""
RAISED = {2: 3, 3: 4, 4: 5, 5: 6, 6: 8, 8: 8}
"""The bits of what is many and matters more than the rest."""
RECIPES = ("uniform", "mixed")
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
HEADS = ("lm_head", "output", "embed_out")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embeddings")
VALUES = ("v_proj", "v_a_proj", "v_b_proj", "kv_b_proj", "qkv_proj")
DOWN = ("down_proj", "fc2", "w2", "c_proj")
TOWERS = re.compile(r"(model\.)?(vision|visual|audio|multi_modal|mm_|embed_vision|embed_audio|connector|aligner|mlp1|"
                    r"projector)")
ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True)
class Setting:
    """How a weight is stored: ``bits`` in groups of ``group_size`` along the input axis, by MLX's ``mode``."""

    bits: int
    group_size: int = 64
    mode: str = "affine"

    def __post_init__(self):
        if self.mode not in BITS:
            raise UsageError("unknown mode", where="mode", found=repr(self.mode), expected=", ".join(BITS))
        if self.bits not in BITS[self.mode]:
            raise UsageError(f"{self.mode} has no such bits", where="bits", found=repr(self.bits),
                             expected=" or ".join(map(str, BITS[self.mode])))
        if self.group_size not in GROUP_SIZES[self.mode]:
            raise UsageError(f"{self.mode} has no such group size", where="group_size", found=repr(self.group_size),
                             expected=" or ".join(map(str, GROUP_SIZES[self.mode])))

    @classmethod
    def of(cls, bits: int | None = None, group_size: int | None = None, mode: str = "affine") -> Setting:
        """A setting whose missing parts are the mode's own: 4 bits in groups of 64 for affine."""
        if mode not in BITS:
            return cls(bits or 4, group_size or 64, mode)
        usual = {"affine": (4, 64)}.get(mode, (BITS[mode][0], GROUP_SIZES[mode][0]))
        return cls(usual[0] if bits is None else bits, usual[1] if group_size is None else group_size, mode)

    def fitting(self, width: int) -> Setting | None:
        """This setting for rows of ``width`` numbers: a smaller group where this one doesn't divide them, or None."""
        sizes = [g for g in sorted(GROUP_SIZES[self.mode], reverse=True) if g <= self.group_size and width % g == 0]
        return Setting(self.bits, sizes[0], self.mode) if sizes else None

    def as_dict(self) -> dict[str, Any]:
        """The row of config.json's ``quantization``."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


@dataclass(frozen=True)
class Recipe:
    """Which setting each module gets. ``overrides`` map patterns of module paths (``*`` for any text) to a Setting, or
    to None for no quantization; the last that fits wins. ``measured`` are settings by exact path, from a measurement.
    ``fit`` chooses scales by least squares, which takes time and costs no size; see `fit.fitted`. ``calibrate`` does
    so by how large inputs are on the project's text, where the model can be fed one; see `importance`.
    """

    base: Setting
    name: str = "mixed"
    overrides: Mapping[str, Setting | None] = field(default_factory=dict)
    measured: Mapping[str, Setting] = field(default_factory=dict)
    fit: bool = True
    calibrate: bool = True

    def __post_init__(self):
        if self.name not in RECIPES:
            raise UsageError("unknown recipe", where="recipe", found=repr(self.name), expected=", ".join(RECIPES))

    def overridden(self, path: str) -> bool:
        """Whether an override says what becomes of a module."""
        return any(fnmatchcase(path, pattern) for pattern in self.overrides)

    def routes(self, path: str) -> bool:
        """Whether a module chooses experts, which no budget takes bits from."""
        last = path.rpartition(".")[2]
        return last in ROUTERS or last.endswith("_gate")

    def setting(self, path: str, layers: int) -> Setting | None:
        """The setting for the module at ``path`` of a model with so many layers."""
        for pattern, chosen in reversed(list(self.overrides.items())):
            if fnmatchcase(path, pattern):
                return chosen
        if not _of_text(path):
            return None
        if path in self.measured:
            return self.measured[path]
        last = path.rpartition(".")[2]
        if self.routes(path):
            return Setting(8) if self.base.bits < 8 or self.base.mode != "affine" else self.base
        bits = _more_bits(path, last, layers) if self.name == "mixed" else None
        if bits is None:
            return self.base
        if self.base.mode != "affine":
            return self.base if self.base.bits == 8 else Setting(6)
        return Setting(bits[self.base.bits], self.base.group_size)

    def as_dict(self) -> dict[str, Any]:
        """What identifies the recipe: for the model card, and to tell whether an interrupted run was the same."""
        overrides = {pattern: s and s.as_dict() for pattern, s in self.overrides.items()}
        return {"name": self.name, **self.base.as_dict(), "fit": self.fit, "calibrate": self.calibrate,
                **({"overrides": overrides} if overrides else {}),
                **({"measured": {p: s.as_dict() for p, s in self.measured.items()}} if self.measured else {})}


def _of_text(path: str) -> bool:
    """Whether a module belongs to the language model: towers and projectors keep their precision."""
    return TOWERS.match(path) is None


def _more_bits(path: str, last: str, layers: int) -> dict[int, int] | None:
    """The table of bits for a module that `mixed` gives more, or None."""
    number = LAYER.search(path)
    if number is None:
        return RAISED if last in HEADS or last in EMBEDDINGS or last.startswith("embed") else None
    i, eighth = int(number[1]), layers // 8
    if last in VALUES:
        return HIGH
    return RAISED if last in DOWN and (i < eighth or i >= layers - eighth) else None


def parse_override(text: str) -> tuple[str, Setting | None]:
    """``PATTERN=BITS[:GROUP[:MODE]]`` or ``PATTERN=none``. Raises UsageError for anything else."""
    pattern, found, value = text.partition("=")
    parts = value.split(":")
    if found and pattern and value == "none":
        return pattern, None
    numbers: Sequence[str] = parts[:2]
    if not (found and pattern and 1 <= len(parts) <= 3 and all(n.isdecimal() for n in numbers)):
        raise UsageError("not an override", where="--override", found=repr(text),
                         expected="PATTERN=BITS, PATTERN=BITS:GROUP or PATTERN=none, such as '*.v_proj=8'")
    return pattern, Setting.of(int(parts[0]), int(parts[1]) if len(parts) > 1 else None, *parts[2:])
