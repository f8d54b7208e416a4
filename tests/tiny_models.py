"""The tiny parity checkpoints as loaded models, each made once in a test run: one of every kind of memory."""

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from mlxlm.load import load_model

KINDS = {
    "attention": "llama-llama3-rope-biases-tied",
    "sliding": "gemma3_text-pattern-2",
    "windows": "mistral-window",
    "experts": "qwen3_moe-normalised",
    "latent": "deepseek_v3-yarn-mscale",
    "indexed": "deepseek_v32-indexed",
    "mamba2": "mamba2-groups-biases-tied",
    "mamba": "mamba-plain",
    "delta": "qwen3_next-delta-moe",
    "conv": "lfm2-convolutions",
    "beside": "falcon_h1-multipliers",
    "composite": "baichuan_m1-own-heads-in-windows",
    "lightning": "minimax-lightning",
    "shared": "gemma3n_text-shared-sparse",
    "chunked": "llama4_text-chunks-experts",
    "softcap": "gemma2-window-softcaps",
    "sinks": "gpt_oss-yarn",
    "alibi": "mpt-plain",
}
_folders = TemporaryDirectory(prefix="mlxlm-tiny-")


@lru_cache(maxsize=64)
def folder(name: str) -> Path:
    """A parity case's checkpoint on disk."""
    from parity import reference
    from parity.cases import CASES

    case = next(c for c in CASES if c.name == name)
    return reference.save(reference.build(case), Path(_folders.name) / name)


@lru_cache(maxsize=64)
def model(kind: str):
    """The model of a kind of memory (a key of KINDS), or of a parity case by its name."""
    return load_model(folder(KINDS.get(kind, kind)))


@lru_cache(maxsize=64)
def as_mlx_lm(name: str):
    """mlx-lm's own model of a parity case, or None where the case says that mlx-lm is wrong or lacks it."""
    from mlx_lm import utils
    from parity import reference
    from parity.cases import CASES

    case = next(c for c in CASES if c.name == name)
    if case.mlx_lm_wrong:
        return None
    old = folder(name).parent / f"{name}-old"
    return utils.load_model(reference.save_old_config(folder(name), old))[0]
