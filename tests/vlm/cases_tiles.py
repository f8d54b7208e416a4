"""The cases of InternVL, whose images come as tiles of one size, in transformers' words and in its makers' own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from . import reference
from .reference import Case

SIDE = 16  # of a tile, in pixels
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=[SIDE, SIDE],
    patch_size=[4, 4],
)  # fmt: skip
ALL_ON = dict(use_qk_norm=True, norm_type="rms_norm", attention_bias=True)


def tiles(sizes, rng):
    """Images of so many tiles each; a tile has 4 rows."""
    counts = [n for (n,) in sizes]
    pixels = rng.standard_normal((sum(counts), 3, SIDE, SIDE)).astype(np.float32)
    return {"pixel_values": pixels}, [4 * n for n in counts]


def chat(case: Case):
    """transformers' model, which saves itself as its makers do."""
    model = reference.conditional(replace(case, model_type="internvl"))
    model.save_pretrained = lambda folder: save_as_chat(model, Path(folder))
    return model


TOWER = {
    "cls_token": "class_embedding", "position_embeddings": "position_embedding",
    "patch_embeddings.projection": "patch_embedding", "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj", "attention.": "attn.", "layernorm_before": "norm1",
    "layernorm_after": "norm2", "lambda_": "ls",
}  # fmt: skip
PROJECTOR = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


def save_as_chat(model, folder: Path) -> None:
    state, out = {k: v.clone() for k, v in model.state_dict().items()}, {}
    for name, w in state.items():
        name = name.removeprefix("model.")
        if name.startswith("vision_tower."):
            name = "vision_model." + name.removeprefix("vision_tower.")
            for old, new in TOWER.items():
                name = name.replace(old, new)
            if ".k_proj." in name or ".v_proj." in name:
                continue
            if ".q_proj." in name:
                kinds = [w.clone()] + [state[old] for old in others(state, w)]
                name, w = name.replace("q_proj", "qkv"), torch.cat(kinds)
        elif name.startswith("multi_modal_projector."):
            part = name.split(".")[1]
            name = name.replace(f"multi_modal_projector.{part}", f"mlp1.{PROJECTOR[part]}")
        elif name.startswith("language_model."):
            name = name.replace("language_model.", "language_model.model.")
        else:
            name = f"language_model.{name}"
        out[name] = w.contiguous()
    folder.mkdir()
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(chat_config(model.config)))


def others(state, w) -> list[str]:
    """The names of the keys and values beside these queries."""
    q = next(n for n, t in state.items() if ".q_proj." in n and t.shape == w.shape and (t == w).all())
    return [q.replace("q_proj", part) for part in ("k_proj", "v_proj")]


def chat_config(config) -> dict:
    """The config in its makers' words."""
    vision, text = config.vision_config.to_dict(), config.text_config.to_dict()
    vision |= {"model_type": "intern_vit_6b", "qkv_bias": vision.pop("attention_bias"), "drop_path_rate": 0.1,
               "qk_normalization": vision.pop("use_qk_norm"), "image_size": SIDE, "patch_size": 4}  # fmt: skip
    for word in ("use_mean_pooling", "use_mask_token", "use_absolute_position_embeddings", "projection_dropout"):
        vision.pop(word)
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "architectures": ["Qwen2ForCausalLM"], "torch_dtype": "float32"}
    return {
        "model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "llm_config": text,
        "vision_config": vision, "downsample_ratio": 0.5, "ps_version": "v2", "select_layer": -1,
        "template": "internvl2_5",
        "dynamic_image_size": True, "force_image_size": SIDE, "max_dynamic_patch": 12, "min_dynamic_patch": 1,
        "use_thumbnail": True, "use_backbone_lora": 0, "use_llm_lora": 0, "pad2square": False,
        "tie_word_embeddings": False, "auto_map": {}, "hidden_size": 64,
    }  # fmt: skip


QWEN2 = dict(model_type="qwen2")
ROOT = dict(video_token_id=None, tie_word_embeddings=False)
COMMON = dict(media=tiles, sizes=((1,), (3,)), root=ROOT)
CASES = (
    Case("internvl", "qwen2", text=QWEN2, vision=VISION, **COMMON),
    Case(
        "internvl", "norms", text=dict(model_type="qwen3", head_dim=16),
        vision={**VISION, **ALL_ON, "use_mean_pooling": False}, **COMMON
    ),
    Case("internvl", "tied", text=dict(QWEN2, tie_word_embeddings=True), vision=VISION, media=tiles, sizes=((2,), (1,)),
         root=dict(video_token_id=None)),
    Case("internvl_chat", "qwen2", text=QWEN2, vision=VISION, make=chat, **COMMON),
    Case("internvl_chat", "norms", text=QWEN2, vision={**VISION, **ALL_ON}, make=chat, **COMMON),
)  # fmt: skip
