"""Tiny random checkpoints made with transformers, and the logits that transformers gives for them in float32."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

logging.set_verbosity_error()
torch.set_num_threads(2)

BASE = dict(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LENGTH, BATCH = 33, 2
OLD_KINDS = {"linear_attention": "mamba", "full_attention": "attention"}
RELEASED_NEW = ("ministral3", "mistral3")  # types whose own config.json is in transformers 5's words already
OLD_PREFIX = {"gpt2": "transformer."}  # that the first releases' names do without


@dataclass(frozen=True)
class Case:
    """One variant of a type: ``config`` goes on top of BASE, ``drop`` names what the type's config can't take.

    ``by_length`` marks ropes that turn otherwise as the context grows: a chunk can't equal the whole by then.
    ``values`` sets parameters by a part of their name, for those that random numbers would make meaningless.
    ``make`` gives the reference where transformers' AutoModelForCausalLM has none: a torch module for a case.
    """

    model_type: str
    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    by_length: bool = False
    attention: str = "eager"  # transformers' implementation that is the reference
    like: str = ""  # the type of transformers that computes the same, where it hasn't this one
    rewrite: Callable[[dict, dict], tuple[dict, dict]] | None = None  # (weights, config) as the type spells them
    mlx_lm_wrong: str = ""  # why mlx-lm can't be the reference for this variant
    values: dict[str, tuple[float, float]] = field(default_factory=dict)  # low, high
    make: Callable[["Case"], Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.model_type}-{self.variant}"


def build(case: Case):
    """The reference model of a case: eager, float32, every parameter random, norms, biases and routers too."""
    model = (case.make or causal)(case).float().eval()
    randomize(model, case)
    model.rewrite = case.rewrite
    return model


def settings(case: Case) -> dict[str, Any]:
    """BASE with the case's own on top, without what its config can't take."""
    return {k: v for k, v in {**BASE, **case.config}.items() if k not in case.drop}


def causal(case: Case):
    config = AutoConfig.for_model(case.like or case.model_type, **settings(case))
    return AutoModelForCausalLM.from_config(config, attn_implementation=case.attention)


def multimodal(case: Case):
    """A model with a vision tower, whose text half is the case's: ``vision_config`` and others lie beside it."""
    outer = ("vision_config", "audio_config", "tie_word_embeddings")
    inner = {k: v for k, v in settings(case).items() if k not in outer}
    beside = {k: case.config[k] for k in outer if k in case.config}
    config = AutoConfig.for_model(case.model_type, text_config=inner, **beside)
    return AutoModelForImageTextToText.from_config(config, attn_implementation=case.attention)


def of(case: Case) -> str:
    """What the case is compared with, in words."""
    if case.make not in (None, multimodal):
        return "PyTorch, in the test"
    return f"transformers, its {case.like}" if case.like else "transformers"


def randomize(model, case: Case) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    trained = ("correction_bias", "expert_bias", "layer_scalar")
    buffers = [(n, b) for n, b in model.named_buffers() if n.endswith(trained)]
    ranges = {"A_log": (0.0, 2.0), "dt_bias": (-3.0, -2.0), **case.values}
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *buffers]:
            noise = torch.randn(p.shape, generator=generator)
            chosen = next((r for part, r in ranges.items() if part in name), None)
            if chosen:
                p.copy_(chosen[0] + (chosen[1] - chosen[0]) * torch.rand(p.shape, generator=generator))
            elif p.ndim == 1:
                p.copy_((1.0 if "norm" in name and "bias" not in name else 0.0) + 0.3 * noise)
            else:
                p.copy_(noise * 1.2 / p.shape[-1] ** 0.5)


def tokens(case: Case) -> np.ndarray:
    """(BATCH, LENGTH) token ids, longer than every window and period of the cases."""
    vocab = case.config.get("vocab_size", BASE["vocab_size"])
    return np.random.RandomState(7).randint(3, vocab, (BATCH, LENGTH)).astype(np.int32)


def logits(model, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long), use_cache=False).logits.float().numpy()


def save(model, folder: Path) -> Path:
    """As transformers writes a checkpoint: its own names on disk, ``rope_parameters`` in config.json."""
    if not model.rewrite:
        model.save_pretrained(folder)
        return folder
    folder.mkdir()
    state, config = model.rewrite(state_of(model), json.loads(model.config.to_json_string(use_diff=False)))
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def state_of(model) -> dict[str, torch.Tensor]:
    """The weights under the names that they have in memory, a tied head left out."""
    tied = model.config.get_text_config().tie_word_embeddings
    return {n: t.clone().contiguous() for n, t in model.state_dict().items() if not (tied and n == "lm_head.weight")}


def save_fused(model, source: Path, folder: Path) -> Path:
    """The names that transformers 5 has in memory: experts in one tensor, no ``.weight`` where there is no module."""
    folder.mkdir()
    state = state_of(model)
    if model.rewrite:
        state, _ = model.rewrite(state, {})
        state = {n: t.contiguous() for n, t in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((source / "config.json").read_text())
    return folder


def save_old_config(source: Path, folder: Path) -> Path:
    """The same weights under a config.json as transformers 4 wrote it: ``rope_theta`` and ``rope_scaling``."""
    folder.mkdir()
    prefix = OLD_PREFIX.get(json.loads((source / "config.json").read_text())["model_type"])
    for file in source.glob("*.safetensors*"):
        if prefix:
            state = {n.removeprefix(prefix): t for n, t in load_file(file).items()}
            save_file(state, folder / file.name, metadata={"format": "pt"})
        else:
            (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text(json.dumps(old_config(json.loads((source / "config.json").read_text()))))
    return folder


def old_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config of transformers 5 in transformers 4's words."""
    config = dict(config)
    if config["model_type"] in RELEASED_NEW:
        return config
    if config["model_type"] == "mimo_v2_flash":
        config = mimo_config(config)
    if config["model_type"] == "gemma4_text":
        return gemma4_config(config)
    rope = config.pop("rope_parameters", None) or {}
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            config[key] = rope.pop(key)
    if rope.get("rope_type", "default") != "default":
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
    else:
        config["rope_scaling"] = None
    if config["model_type"] == "gpt_neox":
        config["rotary_pct"], config["rotary_emb_base"] = config.pop("partial_rotary_factor"), config.pop("rope_theta")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    if config["model_type"] == "granitemoehybrid":
        config["layer_types"] = [OLD_KINDS[kind] for kind in config["layer_types"]]
    config["torch_dtype"] = config.pop("dtype", "float32")
    return config


def mimo_config(config: dict[str, Any]) -> dict[str, Any]:
    """MiMo V2 Flash's config in its makers' words."""
    config = dict(config)
    rope, kinds = config["rope_parameters"], config.pop("layer_types")
    config["rope_parameters"] = rope["full_attention"]
    config["swa_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    config["hybrid_layer_pattern"] = [int(kind == "sliding_attention") for kind in kinds]
    config["moe_layer_freq"] = [int(kind == "sparse") for kind in config.pop("mlp_layer_types")]
    config["sliding_window_size"] = config["sliding_window"] - 1
    config["swa_num_key_value_heads"] = 2 * config["num_key_value_heads"]
    config["layernorm_epsilon"] = config.pop("rms_norm_eps")
    for part in ("num_attention_heads", "head_dim", "v_head_dim"):
        config[f"swa_{part}"] = config[part]
    config |= {"add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False, "n_shared_experts": None}
    return {**config, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}


def gemma4_config(config: dict[str, Any]) -> dict[str, Any]:
    """Gemma 4's config in its makers' words."""
    config = dict(config)
    for own in config.pop("per_layer_config").values():
        config["global_head_dim"] = own["head_dim"]
        config["num_global_key_value_heads"] = own.get("num_key_value_heads")
    return config
