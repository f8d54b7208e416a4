"""The cases of models that put a tower, a projector and a text model one after the other: LLaVA's form, and Gemma's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

from .reference import IMAGE, Case, conditional

SIGLIP = dict(model_type="siglip_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
              num_attention_heads=2, image_size=24, patch_size=4, vision_use_head=False)  # fmt: skip
CLIP = {**SIGLIP, "model_type": "clip_vision_model", "num_hidden_layers": 3}
PIXTRAL = dict(model_type="pixtral", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
               image_size=48, patch_size=4)  # fmt: skip
GEMMA = dict(head_dim=16, query_pre_attn_scalar=16)
SPLIT = {"full_attention": {"rope_type": "linear", "rope_theta": 40_000.0, "factor": 2.0},
         "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}  # fmt: skip

PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
NAFLEX = dict(model_type="siglip2_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
              num_attention_heads=2, patch_size=4, num_patches=25, vision_use_head=False)  # fmt: skip
LFM2 = dict(model_type="lfm2", layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False)


def squares(side: int, count: int):
    """Images that were resized to squares of ``side`` pixels, with ``count`` places each."""

    def make(sizes, rng):
        pixels = rng.standard_normal((len(sizes), 3, side, side)).astype(np.float32)
        return {"pixel_values": pixels}, [count] * len(sizes)

    return make


def frames(patch: int, merge: int = 1):
    """Images of any size in one frame, zeros around them; sizes are in patches."""

    def make(sizes, rng):
        inner = np.array(sizes) * patch
        pixels = np.zeros((len(sizes), 3, 12 * patch, 12 * patch), np.float32)
        for frame, (h, w) in zip(pixels, inner, strict=True):
            frame[:, :h, :w] = rng.standard_normal((3, h, w))
        return {"pixel_values": pixels, "image_sizes": inner}, [h // merge * (w // merge) for h, w in sizes]

    return make


def tiles(side: int, count: int):
    """Idefics' tiles: as many as a size's product, the last of each image filled in part; zeros fill up the eight."""

    def make(sizes, rng):
        numbers = [h * w for h, w in sizes]
        pixels, mask = np.zeros((1, 8, 3, side, side), np.float32), np.zeros((1, 8, side, side), np.int64)
        pixels[:, : sum(numbers)] = rng.standard_normal((sum(numbers), 3, side, side))
        mask[:, : sum(numbers)] = 1
        for last, (h, w) in zip(np.cumsum(numbers) - 1, sizes, strict=True):
            mask[0, last, 4 * (h + 1) :] = mask[0, last, :, 4 * (w + 1) :] = 0
        return {"pixel_values": pixels, "pixel_attention_mask": mask}, [n * count for n in numbers]

    return make


def anyres(side: int, patch: int, pinpoints):
    """LLaVA-NeXT's glance and tiles for images of these sizes in pixels, filled up to the most that there can be."""

    def make(sizes, rng):
        per, counts = (side // patch) ** 2, []
        for h, w in sizes:
            frame = select_best_resolution((h, w), pinpoints)
            blank = torch.zeros(1, frame[0] // patch, frame[1] // patch)
            _, rows, columns = unpad_image(blank, (h, w)).shape
            counts.append(per + rows * (columns + 1))
        most = 1 + max(h * w // side**2 for h, w in pinpoints)
        pixels = rng.standard_normal((len(sizes), most, 3, side, side)).astype(np.float32)
        return {"pixel_values": pixels, "image_sizes": np.array(sizes, np.int64)}, counts

    return make


def naflex(sizes, rng):
    """Padded patches of images of any grid, and their grids."""
    most = 30
    pixels, mask = np.zeros((len(sizes), most, 3 * 16), np.float32), np.zeros((len(sizes), most), np.int64)
    for image, seen, (h, w) in zip(pixels, mask, sizes, strict=True):
        image[: h * w], seen[: h * w] = rng.standard_normal((h * w, 3 * 16)), 1
    media = {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": np.array(sizes, np.int64)}
    return media, [h * w // 4 for h, w in sizes]


def prefix_types(ids, media):
    """PaliGemma's marks: 0 for what is asked, up to eight tokens after the last image, 1 for what is answered."""
    if not media:
        return {}
    last = np.flatnonzero(ids[0] == 93)[-1]
    return {"token_type_ids": (np.arange(ids.shape[1]) > last + 8).astype(np.int64)[None]}


def gemma_types(ids, media):
    return {"token_type_ids": (ids == IMAGE) * 1}


def by_own_name(case):
    """transformers' LLaVA with Pixtral's tower, which saves itself as ``pixtral``, as mlx-vlm has it."""
    model = conditional(replace(case, model_type="llava"))
    save = model.save_pretrained

    def save_as_pixtral(folder):
        save(folder)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text())
        for part, name in ((config["vision_config"], "model_type"), (config, "vision_feature_layer"),
                           (config, "vision_feature_select_strategy")):
            del part[name]  # what follows from the name
        path.write_text(json.dumps({**config, "model_type": "pixtral"}))

    model.save_pretrained = save_as_pixtral
    return model


CASES = (
    Case(
        "gemma3",
        "windows",
        text=dict(GEMMA, model_type="gemma3_text", num_hidden_layers=6, sliding_window=12, rope_parameters=SPLIT,
                  layer_types=["sliding_attention", "full_attention"] * 3),
        vision=SIGLIP,
        root=dict(mm_tokens_per_image=9),
        media=squares(24, 9),
        extra=gemma_types,
    ),
    Case(
        "idefics3",
        "tiles",
        text=dict(model_type="llama"),
        vision={**SIGLIP, "model_type": "idefics3_vision"},
        root=dict(scale_factor=3),
        media=tiles(24, 4),
        sizes=((2, 3), (1, 1)),
    ),
    Case(
        "smolvlm",
        "tiles",
        text=dict(model_type="llama"),
        vision={**SIGLIP, "model_type": "smolvlm_vision"},
        root=dict(scale_factor=2),
        media=tiles(24, 9),
        sizes=((1, 3), (2, 1)),
    ),
    Case(
        "llava",
        "clip-llama",
        text=dict(model_type="llama"),
        vision=CLIP,
        media=squares(24, 36),
    ),
    Case(
        "llava",
        "siglip-qwen2",
        text=dict(model_type="qwen2", tie_word_embeddings=True),
        vision=SIGLIP,
        root=dict(vision_feature_layer=-1, vision_feature_select_strategy="full"),
        media=squares(24, 36),
    ),
    Case(
        "llava",
        "clip-mistral-layers",
        text=dict(model_type="mistral", sliding_window=20),
        vision=CLIP,
        root=dict(vision_feature_layer=[-1, 1], multimodal_projector_bias=False, projector_hidden_act="relu"),
        media=squares(24, 36),
    ),
    Case(
        "llava",
        "pixtral-mistral",
        text=dict(model_type="mistral", sliding_window=None, head_dim=24),
        vision=dict(PIXTRAL, hidden_act="silu", rope_parameters={"rope_type": "axial", "rope_theta": 700.0}),
        root=dict(vision_feature_layer=-1, vision_feature_select_strategy="full"),
        media=frames(4),
    ),
    Case(
        "pixtral",
        "own-name-tied",
        text=dict(model_type="mistral", sliding_window=None, tie_word_embeddings=True),
        vision=PIXTRAL,
        root=dict(vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True),
        media=frames(4),
        make=by_own_name,
    ),
    Case(
        "mistral3",
        "merger",
        text=dict(model_type="mistral", sliding_window=None, rms_norm_eps=1e-5, tie_word_embeddings=False),
        vision=PIXTRAL,
        root=dict(spatial_merge_size=2, tie_word_embeddings=False),
        media=frames(4, 2),
    ),
    Case(
        "mistral3",
        "ministral-tied",
        text=dict(model_type="ministral3", tie_word_embeddings=True),
        vision=PIXTRAL,
        root=dict(spatial_merge_size=3, multimodal_projector_bias=True, tie_word_embeddings=True),
        media=frames(4, 3),
        sizes=((3, 6), (9, 3)),
    ),
    Case(
        "llava_next",
        "anyres",
        text=dict(model_type="mistral", sliding_window=None),
        vision=CLIP,
        root=dict(image_grid_pinpoints=PINPOINTS),
        media=anyres(24, 4, PINPOINTS),
        sizes=((30, 60), (90, 31)),
    ),
    Case(
        "llava_next",
        "siglip-full",
        text=dict(model_type="llama"),
        vision=SIGLIP,
        root=dict(image_grid_pinpoints=PINPOINTS, vision_feature_select_strategy="full", vision_feature_layer=[-2, -1]),
        media=anyres(24, 4, PINPOINTS),
        sizes=((51, 47), (20, 24)),
    ),
    Case(
        "lfm2_vl",
        "norm",
        text=LFM2,
        vision=NAFLEX,
        root=dict(projector_hidden_size=40),
        media=naflex,
        sizes=((4, 6), (10, 2)),
    ),
    Case(
        "lfm2_vl",
        "plain",
        text=dict(LFM2, tie_word_embeddings=True),
        vision=NAFLEX,
        root=dict(projector_hidden_size=40, projector_use_layernorm=False, projector_bias=False),
        media=naflex,
        sizes=((2, 8), (6, 4)),
    ),
    Case(
        "paligemma",
        "gemma",
        text=dict(model_type="gemma", head_dim=16),
        vision=dict(SIGLIP),
        root=dict(projection_dim=64),
        media=squares(24, 36),
        extra=prefix_types,
        turns=False,
    ),
    Case(
        "paligemma",
        "gemma2",
        text=dict(GEMMA, model_type="gemma2", sliding_window=16),
        vision=dict(SIGLIP),
        root=dict(projection_dim=64),
        media=squares(24, 36),
        extra=prefix_types,
        turns=False,
    ),
)
