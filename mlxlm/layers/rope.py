"""Rotary positions: one callable ``rope(x, step)``, whatever the scaling; a kind of scaling is a row in a table.

The formulas are those of the papers as transformers' ``modeling_rope_utils`` reads the config fields.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import ConfigError
from ..kernels import ops


@dataclass(frozen=True)
class Plan:
    """How many of a head's dims turn, at which base, and the config's settings for the kind."""

    dims: int
    base: float
    settings: dict
    max_positions: int

    @property
    def original(self) -> int:
        """``original_max_position_embeddings``: the context the model was first trained for."""
        return int(self.settings.get("original_max_position_embeddings") or self.max_positions)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.settings.get(key, default)
        if value is None and default is not None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"rope_parameters.{key} must be a number", where="config.json", found=repr(value))
        return float(value)

    def inverse(self, base: float | None = None) -> np.ndarray:
        """The plain turns per position, (dims / 2,) in float32."""
        powers = np.arange(0, self.dims, 2, dtype=np.float32) / np.float32(self.dims)
        return (1.0 / np.float32(base or self.base) ** powers).astype(np.float32)


# A kind gives (inverse frequencies (dims / 2,), factor on cos and sin) for a context of ``end`` positions.
Kind = Callable[[Plan, int], tuple[np.ndarray, float]]


def _default(p: Plan, end: int) -> tuple[np.ndarray, float]:
    return p.inverse(), 1.0


def _linear(p: Plan, end: int) -> tuple[np.ndarray, float]:
    return p.inverse() / np.float32(p.number("factor")), 1.0


def _dynamic(p: Plan, end: int) -> tuple[np.ndarray, float]:
    """NTK by parts of the length: the base grows once the context is longer than the trained one."""
    factor, longest = p.number("factor"), max(end, p.max_positions)
    grown = (factor * longest / p.max_positions - (factor - 1)) ** (p.dims / (p.dims - 2))
    return p.inverse(p.base * grown), 1.0


def _llama3(p: Plan, end: int) -> tuple[np.ndarray, float]:
    low, high = p.number("low_freq_factor"), p.number("high_freq_factor")
    inverse = p.inverse()
    wavelength = 2 * math.pi / inverse
    slow = inverse / p.number("factor")
    smooth = (p.original / wavelength - low) / ((high - low) or 1)  # some have both at 1
    mixed = (1 - smooth) * slow + smooth * inverse
    scaled = np.where(wavelength > p.original / low, slow, mixed)
    return np.where(wavelength < p.original / high, inverse, scaled).astype(np.float32), 1.0


def _yarn(p: Plan, end: int) -> tuple[np.ndarray, float]:
    factor = p.settings.get("factor")
    factor = p.max_positions / p.original if factor is None else p.number("factor")

    def turning(rotations: float) -> float:
        return p.dims * math.log(p.original / (rotations * 2 * math.pi)) / (2 * math.log(p.base))

    low, high = turning(p.settings.get("beta_fast") or 32), turning(p.settings.get("beta_slow") or 1)
    if p.settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, p.dims - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(p.dims // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    inverse = p.inverse()
    return (inverse / factor * ramp + inverse * (1 - ramp)).astype(np.float32), _yarn_gain(p, factor)


def _yarn_gain(p: Plan, factor: float) -> float:
    """``attention_factor``, or what the paper and DeepSeek's mscale pair make of it."""
    if p.settings.get("attention_factor") is not None:
        return p.number("attention_factor")
    mscale, all_dims = p.settings.get("mscale"), p.settings.get("mscale_all_dim")
    if mscale and all_dims:
        return yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dims)
    return yarn_mscale(factor)


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    """YaRN's gain for long contexts: 0.1 · weight · ln(factor) + 1."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(p: Plan, end: int) -> tuple[np.ndarray, float]:
    key = "long_factor" if end > p.original else "short_factor"
    factors = p.settings.get(key)
    if not isinstance(factors, list) or len(factors) != p.dims // 2:
        raise ConfigError(
            f"rope_parameters.{key} must be a list of {p.dims // 2} numbers",
            where="config.json",
            found=f"{len(factors)} values" if isinstance(factors, list) else repr(factors),
        )
    factor = p.settings.get("factor") or p.max_positions / p.original
    gain = p.settings.get("long_mscale" if key == "long_factor" else "short_mscale")
    if gain is None:
        gain = p.settings.get("attention_factor")
    if gain is None:
        gain = math.sqrt(1 + math.log(factor) / math.log(p.original)) if factor > 1 else 1.0
    return p.inverse() / np.array(factors, np.float32), float(gain)


def _proportional(p: Plan, end: int) -> tuple[np.ndarray, float]:
    """The first turns of a head as if all turned, and none for the rest (Gemma 4)."""
    turning = int(p.settings.get("partial_rotary_factor", 1.0) * p.dims // 2)
    inverse = p.inverse()
    inverse[turning:] = 0.0
    return inverse / np.float32(p.settings.get("factor") or 1.0), 1.0


KINDS: dict[str, Kind] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "deepseek_yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}
_BY_LENGTH = {"dynamic", "longrope"}  # kinds whose frequencies depend on how long the context has become


class RoPE:
    """Turns the first ``dims`` of each head by its position; holds no weights, so all layers may share one.

    ``interleaved`` pairs neighbours (0, 1), (2, 3) …; else the halves are paired.
    """

    def __init__(self, plan: Plan, kind: str, interleaved: bool):
        self._plan, self._kind, self._interleaved = plan, kind, interleaved
        self._known: dict[int, tuple[mx.array, float]] = {}

    def __call__(self, x: mx.array, step) -> mx.array:
        """x (B, heads, L, head_dim), turned by ``step.positions``."""
        periods, gain = self.frequencies(step.end)
        if gain != 1.0:
            turned = x[..., : self._plan.dims] * mx.array(gain, x.dtype)
            x = (
                turned
                if x.shape[-1] == self._plan.dims
                else mx.concatenate([turned, x[..., self._plan.dims :]], axis=-1)
            )
        return ops.rope(
            x,
            self._plan.dims,
            traditional=self._interleaved,
            base=self._plan.base,
            scale=1.0,
            offset=step.positions,
            freqs=periods,
        )

    @property
    def by_length(self) -> bool:
        """Whether a position's turn depends on how long the context has become, so that rows can't share a pass."""
        return self._kind in _BY_LENGTH

    @property
    def native_shape(self) -> tuple[int, bool, float, bool]:
        """How the kernels are told: (dims, whether neighbours are paired, base, whether periods are given)."""
        return self._plan.dims, self._interleaved, self._plan.base, True

    def frequencies(self, end: int) -> tuple[mx.array, float]:
        """(periods (dims / 2,), factor on cosine and sine) for a context of ``end`` positions."""
        if not self.by_length:
            key = 0
        elif self._kind == "dynamic":
            key = max(end, self._plan.max_positions)
        else:
            key = int(end > self._plan.original)
        if key not in self._known:
            inverse, gain = KINDS[self._kind](self._plan, end)
            if len(self._known) > 8:  # dynamic has one for every length
                self._known.clear()
            with np.errstate(divide="ignore"):  # what doesn't turn has an endless period
                self._known[key] = mx.array(1.0 / inverse), gain
        return self._known[key]


def make_rope(dims: int, settings: dict, *, max_positions: int, interleaved: bool = False) -> RoPE:
    """The rope of a config's ``rope_parameters`` (one layer type's), over ``dims`` of each head.

    Raises ConfigError for a kind that isn't known or settings that don't make sense.
    """
    kind = settings.get("rope_type") or "default"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(
            "this rope_type is not known",
            where="config.json",
            found=repr(kind),
            expected=f"one of {', '.join(sorted(KINDS))}",
        )
    plan = Plan(dims, 10_000.0, settings, max_positions)
    plan = Plan(dims, plan.number("rope_theta", 10_000.0), settings, max_positions)
    if dims <= 0 or dims % 2 or plan.base <= 0:
        raise ConfigError(
            "rope turns an even number of dims at a base above 0",
            where="config.json",
            found=f"{dims} dims, rope_theta {plan.base}",
        )
    rope = _rope(plan, kind, interleaved)
    rope.frequencies(1)  # bad settings are told at load, not at the first token
    return rope


def _rope(plan: Plan, kind: str, interleaved: bool) -> RoPE:
    """The rope itself: one in three directions where the settings share its pairs out."""
    sizes = plan.settings.get("mrope_section")
    if sizes is None:
        return RoPE(plan, kind, interleaved)
    from .mrope import MRoPE, interleaved_sections, sections

    if not isinstance(sizes, list) or len(sizes) < 3 or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ConfigError("mrope_section must list at least three numbers", where="config.json", found=repr(sizes)[:60])
    share = interleaved_sections if plan.settings.get("mrope_interleaved") else sections
    return MRoPE(plan, kind, interleaved, share(sizes, plan.dims // 2))
