"""The cases of DeepSeek-VL, the small one and the one that sees finer too."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from . import reference
from .reference import Case

SIGLIP = dict(
    model_type="siglip_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    image_size=16, patch_size=4,
)  # fmt: skip
SAM = dict(
    model_type="sam_vision_model", hidden_size=32, output_channels=8, num_hidden_layers=3, num_attention_heads=4,
    image_size=32, patch_size=4, mlp_ratio=2.0, window_size=3, global_attn_indexes=[1, 2],
)  # fmt: skip
LLAMA = dict(model_type="llama")
ROOT = dict(video_token_id=None, tie_word_embeddings=False)


def squares(sizes, rng):
    """Images of 16 pixels a side, 16 rows each."""
    return {"pixel_values": rng.standard_normal((len(sizes), 3, 16, 16)).astype(np.float32)}, [16] * len(sizes)


def two_sizes(sizes, rng):
    """The same images at 16 and at 32 pixels a side."""
    media, counts = squares(sizes, rng)
    return media | {"high_res_pixel_values": rng.standard_normal((len(sizes), 3, 32, 32)).astype(np.float32)}, counts


def features(model, media):
    arrays = {k: torch.from_numpy(v) for k, v in media.items()}
    with torch.no_grad():
        rows = model.model.get_image_features(**arrays).pooler_output
    return rows.reshape(-1, rows.shape[-1]).numpy()


COMMON = dict(sizes=((16,), (16,)), text=LLAMA, vision=SIGLIP, tower=features)
CASES = (
    Case("deepseek_vl", "siglip", media=squares, root=ROOT, **COMMON),
    Case("deepseek_vl", "tied", media=squares, root=dict(video_token_id=None),
         **{**COMMON, "text": dict(LLAMA, tie_word_embeddings=True)}),
    Case("deepseek_vl_hybrid", "sam", media=two_sizes, root=dict(ROOT, high_res_vision_config=SAM), **COMMON),
)  # fmt: skip

# DeepSeek-OCR: transformers has it as Unlimited-OCR, whose text looks back in windows wider than these prompts.

SIDE, TILE = 64, 32  # pixels of the whole image and of a tile; a feature is 16 of them
OCR_SAM = dict(
    hidden_size=32, output_channels=8, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=4,
    mlp_dim=128, window_size=3, global_attn_indexes=[1], downsample_channels=[16, 32],
)  # fmt: skip
OCR_CLIP = dict(
    hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=21, patch_size=7,
)  # fmt: skip
OCR_TEXT = dict(
    num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, n_shared_experts=2,
    sliding_window=4096,
)  # fmt: skip
NEW_NAMES = {
    "vision_tower.sam_encoder.": "sam_model.", "vision_tower.vision_encoder.": "vision_model.",
    "multi_modal_projector.": "projector.layers.", "language_model.": "", "view_separator": "view_seperator",
    "patch_embed.projection": "patch_embed.proj", "neck.conv1": "neck.0", "neck.layer_norm1": "neck.1",
    "neck.conv2": "neck.2", "neck.layer_norm2": "neck.3", "proj.conv1": "net_2", "proj.conv2": "net_3",
    "encoder.layers": "transformer.layers",
}  # fmt: skip


def pages(sizes, rng):
    """Whole images and their (rows, columns) of tiles, if they have any: 4 x 5 + 1 rows, and tiles of 2 x 2 a line."""
    counts = [rows * columns for rows, columns in sizes]
    media = {"pixel_values": rng.standard_normal((len(sizes), 3, SIDE, SIDE)).astype(np.float32)}
    if any(counts):
        media["pixel_values_local"] = rng.standard_normal((sum(counts), 3, TILE, TILE)).astype(np.float32)
    media |= {"num_local_patches": np.array(counts), "patches_grid": np.array([(c or 1, r or 1) for r, c in sizes])}
    return media, [21 + 2 * r * (2 * c + 1) if r else 21 for r, c in sizes]


def unlimited(case):
    """transformers' model, which saves itself as DeepSeek's makers do."""
    vision = {"sam_config": OCR_SAM, "encoder_config": OCR_CLIP}
    model = reference.conditional(replace(case, model_type="unlimited_ocr", vision=vision))
    inner, see = model.model, model.model.get_image_features

    def features(pixel_values, pixel_values_local=None, num_local_patches=None, patches_grid=None, **more):
        return see(pixel_values, pixel_values_local, num_local_patches.tolist(), patches_grid.tolist(), **more)

    inner.get_image_features = features
    model.save_pretrained = lambda folder: save_as_ocr(model, Path(folder))
    return model


def save_as_ocr(model, folder):
    out = {}
    for name, w in model.state_dict().items():
        name = name.removeprefix("model.")
        for old, new in NEW_NAMES.items():
            name = name.replace(old, new)
        if name.startswith("sam_model."):
            name = name.replace(".layers.", ".blocks.").replace("layer_norm1", "norm1").replace("layer_norm2", "norm2")
        out[name if name.startswith("lm_head") else f"model.{name}"] = w.clone().contiguous()
    for i in range(OCR_CLIP["num_hidden_layers"]):
        at = f"model.vision_model.transformer.layers.{i}.self_attn"
        for kind in ("weight", "bias"):
            out[f"{at}.qkv_proj.{kind}"] = torch.cat([out.pop(f"{at}.{x}_proj.{kind}") for x in "qkv"])
    out["model.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(32, 3, 7, 7)
    for i, kind in enumerate(model.config.text_config.mlp_layer_types):
        if kind == "sparse":
            split_experts(out, f"model.layers.{i}.mlp.experts")
    folder.mkdir()
    save_file({n: w.contiguous() for n, w in out.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(ocr_config(model.config)))


def split_experts(out, at):
    gates, downs = out.pop(f"{at}.gate_up_proj"), out.pop(f"{at}.down_proj")
    for j, (both, down) in enumerate(zip(gates, downs, strict=True)):
        gate, up = both.chunk(2)
        out |= {f"{at}.{j}.gate_proj.weight": gate, f"{at}.{j}.up_proj.weight": up, f"{at}.{j}.down_proj.weight": down}


def ocr_config(config):
    """The config in its makers' words."""
    text = {k: v for k, v in config.text_config.to_dict().items() if k in {
        "hidden_size", "intermediate_size", "max_position_embeddings", "moe_intermediate_size", "n_routed_experts",
        "n_shared_experts", "num_attention_heads", "num_experts_per_tok", "num_hidden_layers", "num_key_value_heads",
        "vocab_size", "n_group", "topk_group", "topk_method", "rms_norm_eps",
    }}  # fmt: skip
    text |= {"use_mla": False, "kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0,
             "v_head_dim": 0, "first_k_dense_replace": 1, "lm_head": True, "rm_head": False}  # fmt: skip
    sam, clip = OCR_SAM, OCR_CLIP
    width = {
        "clip-l-14-224": {"heads": 4, "image_size": clip["image_size"], "layers": 2, "patch_size": 7, "width": 32},
        "sam_vit_b": {"heads": 4, "layers": 3, "width": 32} | {k: sam[k] for k in (
            "downsample_channels", "global_attn_indexes", "image_size", "output_channels", "patch_size",
            "window_size")},
    }  # fmt: skip
    return {
        "model_type": "deepseek_vl_v2", "architectures": ["DeepseekOCRForCausalLM"], "language_config": text, **text,
        "candidate_resolutions": [[1024, 1024]], "global_view_pos": "head", "tile_tag": "2D",
        "image_token_index": config.image_token_id, "projector_config": {
            "input_dim": 64, "model_type": "mlp_projector", "n_embed": 64, "projector_type": "linear"},
        "vision_config": {"image_size": 1024, "mlp_ratio": 3.7362, "model_name": "deeplip_b_l", "model_type": "vision",
                          "width": width},
    }  # fmt: skip


def rows_of(model, media):
    arrays = {k: torch.from_numpy(v) for k, v in media.items()}
    with torch.no_grad():
        return torch.cat(model.model.get_image_features(**arrays).pooler_output).numpy()


OCR = dict(text=OCR_TEXT, make=unlimited, media=pages, tower=rows_of, root=dict(video_token_id=None))
CASES += (
    Case("deepseek_ocr", "tiles", sizes=((2, 1), (1, 3)), **OCR),
    Case("deepseek_ocr", "whole", sizes=((0, 0), (0, 0)), **OCR),
)  # fmt: skip

TEXT = {
    "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1, "hidden_size": 1280, "intermediate_size": 6848,
    "kv_lora_rank": None, "lm_head": True, "max_position_embeddings": 8192, "moe_intermediate_size": 896,
    "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "num_attention_heads": 10, "num_experts_per_tok": 6,
    "num_hidden_layers": 12, "num_key_value_heads": 10, "q_lora_rank": None, "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0, "rm_head": False, "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16",
    "use_mla": False, "v_head_dim": 0, "vocab_size": 129280,
}  # fmt: skip
RELEASED = {  # DeepSeek-OCR's config.json
    **TEXT, "architectures": ["DeepseekOCRForCausalLM"], "candidate_resolutions": [[1024, 1024]],
    "auto_map": {"AutoConfig": "modeling_deepseekocr.DeepseekOCRConfig"}, "global_view_pos": "head",
    "language_config": {"architectures": ["DeepseekV2ForCausalLM"], **TEXT}, "model_type": "deepseek_vl_v2",
    "projector_config": {"input_dim": 2048, "model_type": "mlp_projector", "n_embed": 1280,
                         "projector_type": "linear"},
    "tile_tag": "2D",
    "vision_config": {
        "image_size": 1024, "mlp_ratio": 3.7362, "model_name": "deeplip_b_l", "model_type": "vision",
        "width": {
            "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
            "sam_vit_b": {"downsample_channels": [512, 1024], "global_attn_indexes": [2, 5, 8, 11], "heads": 12,
                          "layers": 12, "width": 768},
        },
    },
}  # fmt: skip
