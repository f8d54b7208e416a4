"""Checkpoints that other packages have quantized: repacked into MLX's layout where the numbers allow it exactly.

``unpacked(weights, config, where)`` gives weights by Hugging Face's module paths, with MLX's ``weight``, ``scales`` and
``biases`` for what stays quantized and plain floats for the rest, and the ``quantization`` that describes them.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import mlx.core as mx

from ...errors import ConfigError, WeightError
from ...kernels.scales import FLOATS
from ...weights import Weights

METHODS = {"gptq": "gptq", "awq": "awq", "compressed-tensors": "compressed", "fp8": "fp8", "bitsandbytes": "bnb",
           "hqq": "hqq"}
"""``quant_method`` of config.json to the module here that reads it."""

SCALES = (".scales", ".scale", ".zero", ".weight_scale", ".weight_scale_inv", ".SCB", ".absmax", ".nested_absmax",
          ".quant_map", ".nested_quant_map")
"""What a tensor of scales, or of levels, is called in any of them."""
LOT = 256
Settings = dict[str, Any] | None
Unpacker = Callable[[Weights, dict[str, Any], object], tuple[Weights, Settings]]


def is_foreign(config: dict[str, Any]) -> bool:
    """Whether config.json names a method of another package that is read here."""
    settings = config.get("quantization_config")
    return isinstance(settings, dict) and "quantization" not in config and _method(settings) in METHODS


def opened(checkpoint: Any, config: dict[str, Any], where: object) -> tuple[Weights, Settings]:
    """(a checkpoint's weights, their ``quantization``), as `unpacked` has them, once the scales are looked over."""
    _check_numbers(checkpoint.load_weights())
    return unpacked(checkpoint.load_weights(), config, where)


def _check_numbers(weights: Weights) -> None:
    """WeightError for scales that are no numbers, read from arrays of their own, which are let go again."""
    names = [name for name, w in weights.items()
             if name.endswith(SCALES) and w.dtype in FLOATS]
    for at in range(0, len(names), LOT):
        lot = {name: weights.pop(name) for name in names[at:at + LOT]}
        good = mx.stack([mx.isfinite(w).all() for w in lot.values()])
        bad = [name for name, fine in zip(lot, good.tolist(), strict=True) if not fine]  # type: ignore[arg-type]
        if bad:
            raise WeightError("the scales aren't all numbers", where=bad[0], found="NaN or infinity",
                              hint="The file is damaged: pull the model again.")


def unpacked(weights: Weights, config: dict[str, Any], where: object) -> tuple[Weights, Settings]:
    """(weights, ``quantization`` as mlx-lm writes it or None). Raises ConfigError or WeightError for a mistake."""
    settings = config["quantization_config"]
    module = import_module(f".{METHODS[_method(settings)]}", __name__)
    settings = {**settings, "dtype": config.get("dtype") or config.get("torch_dtype")}
    try:
        return module.unpack(weights, settings, where)
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:  # shapes that no check above foresaw
        said = f"the quantized tensors can't be put together: {error}".splitlines()[0]
        raise WeightError(said, where=where) from error


def described(config: dict[str, Any], where: object) -> Settings:
    """The ``quantization`` alone, without the weights."""
    return unpacked({}, config, where)[1]


def _method(settings: dict[str, Any]) -> str:
    return str(settings.get("quant_method", "")).lower().replace("_", "-")


def whole_number(settings: dict[str, Any], name: str, allowed: tuple[int, ...], where: object) -> int:
    """A field of the settings that must be one of some numbers."""
    value = settings.get(name)
    if isinstance(value, bool) or value not in allowed:
        raise ConfigError("this quantization can't be read", where=f"{where}: quantization_config.{name}",
                          found=repr(value), expected=" or ".join(map(str, allowed)),
                          hint="Look for an mlx-community conversion of the model.")
    return int(value)
