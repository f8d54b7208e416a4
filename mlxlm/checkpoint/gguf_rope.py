"""GGUF's metadata on rotary positions to rope_theta and rope_scaling, frequency divisors and all."""

from typing import Any

import numpy as np

from ..errors import ConfigError
from .gguf_keys import Keys


def rope(k: Keys, out: dict[str, Any], dims: int, partial: bool = False) -> None:
    """rope_theta and rope_scaling; ``dims`` turn of each head unless the model may turn fewer."""
    out["rope_theta"] = k.get("rope.freq_base", float, 10_000.0)
    turned = k.get("rope.dimension_count", int, dims)
    if partial:
        out["partial_rotary_factor"] = turned / dims
    elif turned != dims:
        raise ConfigError("rope.dimension_count can't be honoured", where=k.where, found=turned, expected=dims)
    out["rope_scaling"] = _rope_scaling(k, out, turned)


def _rope_scaling(k: Keys, out: dict[str, Any], dims: int) -> dict[str, Any] | None:
    kind = k.get("rope.scaling.type", str, "none")
    factor = k.get("rope.scaling.factor", float) or k.get("rope.scale_linear", float) or 1.0
    original = k.get("rope.scaling.original_context_length", int)
    gain = k.get("rope.scaling.attn_factor", float, 1.0)
    if "rope_factors_long.weight" in k.tensors:
        kind = "longrope"
    if kind != "longrope":
        k.only("rope.scaling.attn_factor", float, 1.0)
    yarn = {
        "attention_factor": k.get("rope.scaling.yarn_attn_factor", float),
        "beta_fast": k.get("rope.scaling.yarn_beta_fast", float),
        "beta_slow": k.get("rope.scaling.yarn_beta_slow", float),
    }
    k.only("rope.scaling.yarn_ext_factor", float, 1.0)
    k.taken.add(f"{k.architecture}.rope.scaling.yarn_log_multiplier")  # DeepSeek's; deepseek2 reads it
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
                **{name: v for name, v in yarn.items() if v is not None}}
    if kind in ("none", "linear") and "rope_freqs.weight" in k.tensors:
        return _factors(k, out, "rope_freqs.weight", dims)
    if kind == "linear" or (factor != 1.0 and kind == "none"):
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
    if kind == "longrope":
        long, short = (_vector(k, f"rope_factors_{which}.weight", dims).tolist() for which in ("long", "short"))
        return {"rope_type": "longrope", "factor": factor, "original_max_position_embeddings": original,
                "long_factor": long,
                "short_factor": short, "attention_factor": gain}
    if kind != "none":
        raise ConfigError("rope.scaling.type is not known", where=k.where, found=kind,
                          expected="none, linear, yarn or longrope")
    return None


def _vector(k: Keys, name: str, dims: int) -> np.ndarray:
    tensor = k.tensors.get(name)
    if tensor is None or tensor.shape != (dims // 2,) or tensor.block.name != "F32":
        raise ConfigError(f"{name} must hold {dims // 2} numbers", where=k.where,
                          found=tensor and (tensor.shape, tensor.block.name))
    return np.ascontiguousarray(tensor.data).view("<f4").reshape(-1)


def _factors(k: Keys, out: dict[str, Any], name: str, dims: int) -> dict[str, Any] | None:
    """llama.cpp stores Llama 3's scaling as a divisor for each frequency: found again, or handed on as it is."""
    divisors = _vector(k, name, dims)
    if not (divisors > 0).all():
        raise ConfigError(f"{name} must hold numbers above 0", where=k.where)
    factor = float(divisors.max())
    if factor == divisors.min() == 1.0:
        return None
    inverse = 1.0 / np.float32(out["rope_theta"]) ** (np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims))
    for original in (8192, 16384, 4096, 2048, 32768, 65536, 131072):
        settings = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": original}
        if np.allclose(_llama3_divisors(inverse, **settings), divisors, rtol=1e-4):
            return {"rope_type": "llama3", **settings}
    return {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0, "long_factor": divisors.tolist(),
            "short_factor": divisors.tolist(), "original_max_position_embeddings": out["max_position_embeddings"]}


def _llama3_divisors(inverse: np.ndarray, factor: float, low_freq_factor: float, high_freq_factor: float,
                     original_max_position_embeddings: int) -> np.ndarray:
    """By how much Llama 3.1 divides each frequency: high ones by 1, low ones by the factor, those between by a mix."""
    turns = original_max_position_embeddings * inverse / (2 * np.pi)
    smooth = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
