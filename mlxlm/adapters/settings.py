"""The settings of an adapter that change its numbers; those that can't be honoured are refused, not passed over."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

# What an adapter may ask for that isn't done here. Where the value is none of the second column, it is an error.
REFUSED = {
    "lora_bias": "a bias of its own", "layer_replication": "layers that stand twice",
    "target_parameters": "changes of bare parameters", "trainable_token_indices": "rows of their own for tokens",
    "alora_invocation_tokens": "activation by tokens", "use_qalora": "QALoRA", "arrow_config": "Arrow's routing",
    "use_bdlora": "block-diagonal factors", "monteclora_config": "MonteCLoRA",
}  # fmt: skip
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def number(value: Any, what: str, where: object) -> float:
    """A finite number from a config. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{what} must be a number", where=where, found=repr(value)[:60])
    return float(value)


def scale_of(parameters: Any, where: object) -> float:
    """The scale in mlx-lm's ``lora_parameters``."""
    if not isinstance(parameters, dict):
        raise ConfigError("lora_parameters must be an object", where=where, found=repr(parameters)[:60])
    if "scale" not in parameters:
        hint = "mlx-lm has no alpha: its scale is alpha / rank." if "alpha" in parameters else None
        raise ConfigError("lora_parameters has no scale", where=where, hint=hint)
    return number(parameters["scale"], "lora_parameters.scale", where)


@dataclass(frozen=True)
class Peft:
    """What PEFT's adapter_config.json says of every module, and by pattern of some."""

    rank: int
    alpha: float
    ranks: dict[str, Any]
    alphas: dict[str, Any]
    by_root: bool
    dora: bool
    turned: bool
    where: object

    @classmethod
    def read(cls, config: dict[str, Any], where: object) -> Peft:
        """The settings of a config. Raises ConfigError for a kind of adapter that isn't read."""
        if config["peft_type"] != "LORA":
            raise ConfigError("this kind of adapter can't be loaded", where=where, found=repr(config["peft_type"])[:60],
                              expected="LORA")
        for key, what in REFUSED.items():
            if config.get(key):
                raise ConfigError(f"the adapter has {what}, which isn't known here", where=where, found=key)
        start = str(config.get("init_lora_weights", "")).lower()
        if start.startswith(CHANGES_BASE):
            raise ConfigError("the adapter goes with base weights of its own", where=where,
                              found=f"init_lora_weights {start!r}",
                              hint="Save it again with path_initial_model_for_weight_conversion, as plain LoRA.")
        ranks, alphas = (config.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
        if not (isinstance(ranks, dict) and isinstance(alphas, dict)):
            raise ConfigError("rank_pattern and alpha_pattern must be objects", where=where)
        rank = number(config.get("r"), "r", where)
        return cls(int(rank), number(config.get("lora_alpha", 8), "lora_alpha", where), ranks, alphas,
                   config.get("use_rslora") is True, config.get("use_dora") is True,
                   config.get("fan_in_fan_out") is True, where)

    def of(self, name: str) -> tuple[int, float]:
        """(rank, scale) of a module."""
        rank = int(number(self._for(name, self.ranks, self.rank), "rank_pattern", self.where))
        alpha = number(self._for(name, self.alphas, self.alpha), "alpha_pattern", self.where)
        if rank < 1:
            raise ConfigError("the rank must be at least 1", where=self.where, found=rank)
        return rank, alpha / (math.sqrt(rank) if self.by_root else rank)

    def _for(self, name: str, patterns: dict[str, Any], default: Any) -> Any:
        """A pattern is a module's path from its end, perhaps a regular expression; only names and ``.*`` are taken."""
        for pattern, value in patterns.items():
            if not re.fullmatch(r"\^?[\w.*\\|()]{1,500}\$?", pattern) or re.search(r"\)[*+]", pattern):
                raise ConfigError("a pattern that isn't taken", where=self.where, found=repr(pattern)[:80],
                                  expected="a module's name")
            try:
                if re.match(rf"(.*\.)?({pattern})$", name):
                    return value
            except re.error as error:
                raise ConfigError(f"a pattern isn't a regular expression ({error})", where=self.where,
                                  found=repr(pattern)[:80]) from error
        return default
