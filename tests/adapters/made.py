"""Adapters written by hand as PEFT lays them out, and a reference that merges them into the checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

RANK, ALPHA = 4, 12


def peft(source: Path, folder: Path, fits: Callable[[str], bool], *, seed: int = 0, dora: bool = False,
         turned: bool = False, merged: Path | None = None, **config) -> Path:
    """A PEFT adapter for the checkpoint's tensors that ``fits`` names, and the merged checkpoint in ``merged``."""
    random = np.random.default_rng(seed)
    weights = _tensors(source)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_dora": dora, "fan_in_fan_out": turned,
                "bias": "none", "target_modules": "all-linear", "init_lora_weights": True, **config}
    tensors, after = {}, dict(weights)
    for name, w in weights.items():
        module = name.removesuffix(".weight")
        if not fits(name) or w.ndim != 2:
            continue
        rank = next((r for key, r in settings.get("rank_pattern", {}).items() if module.endswith(key)), RANK)
        alpha = next((a for key, a in settings.get("alpha_pattern", {}).items() if module.endswith(key)), ALPHA)
        rows, columns = w.shape[::-1] if turned else w.shape
        a, b = random.normal(0, 0.3, (rank, columns)), random.normal(0, 0.3, (rows, rank))
        at = f"base_model.model.{module}."
        tensors[at + "lora_A.weight"], tensors[at + "lora_B.weight"] = (t.astype(np.float32) for t in (a, b))
        delta = alpha / (rank**0.5 if settings.get("use_rslora") else rank) * (b @ a)
        new = w.astype(np.float64) + (delta.T if turned else delta)
        if dora:
            length = random.uniform(0.5, 2, rows)
            tensors[at + "lora_magnitude_vector"] = length.astype(np.float32)
            new *= (length / np.linalg.norm(new, axis=1))[:, None]
        after[name] = new.astype(np.float32)
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    if merged is not None:
        merged.mkdir()
        for file in source.glob("*.json"):
            if "index" not in file.name:
                (merged / file.name).write_bytes(file.read_bytes())
        save_file(after, merged / "model.safetensors", {"format": "pt"})
    return folder


def _tensors(source: Path) -> dict[str, np.ndarray]:
    return {name: w for file in sorted(source.glob("*.safetensors")) for name, w in load_file(file).items()}


def transformers_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()
