"""The cases of Llama 3.2 Vision, whose reference is mended where it departs from Meta's own code."""

import numpy as np
import torch
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from . import reference
from .reference import IMAGE, Case

SIDE, TILES = 16, 4
RATIOS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_global_layers=2, attention_heads=4, image_size=SIDE,
    patch_size=4, vision_output_dim=96, max_num_tiles=TILES, intermediate_layers_indices=[1, 3],
)  # fmt: skip


def tiled(sizes, rng):
    """Images of (rows, columns) of tiles; each has one place in the prompt."""
    pixels = np.zeros((1, len(sizes), TILES, 3, SIDE, SIDE), np.float32)
    mask = np.zeros((1, len(sizes), TILES), np.int64)
    for i, size in enumerate(sizes):
        n = size[0] * size[1]
        pixels[0, i, :n], mask[0, i, :n] = rng.standard_normal((n, 3, SIDE, SIDE)), 1
    ids = np.array([[RATIOS.index(tuple(size)) + 1 for size in sizes]])
    return {"pixel_values": pixels, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}, [1] * len(sizes)


def seen(ids, media):
    """transformers' own mask of which tokens see which tiles."""
    if "pixel_values" not in media:
        return {}
    ranges = [get_cross_attention_token_mask(row.tolist(), IMAGE) for row in ids]
    tiles = media["aspect_ratio_mask"].sum(-1).tolist()
    return {"cross_attention_mask": convert_sparse_cross_attention_mask_to_dense(ranges, tiles, TILES, ids.shape[1])}


def mended(case):
    """As Meta's code: a layer is chosen for its input, and a token without an image passes the looking layers by."""
    model = reference.conditional(case)
    tower = model.model.vision_model
    tower.intermediate_layers_indices = [i - 1 for i in case.vision["intermediate_layers_indices"]]
    for layer in model.model.language_model.layers:
        if hasattr(layer, "cross_attn"):
            pass_by(layer)
    return model


def pass_by(layer):
    masks = []
    keep = lambda m, a, kw: masks.append(kw["full_text_row_masked_out_mask"])  # noqa: E731
    layer.register_forward_pre_hook(keep, with_kwargs=True)
    layer.cross_attn.register_forward_hook(lambda m, a, out: (out[0] * masks.pop()[:, 0], *out[1:]))


def features(model, media):
    arrays = {k: torch.from_numpy(v) for k, v in media.items()}
    with torch.no_grad():
        found = model.model.multi_modal_projector(model.model.vision_model(**arrays).last_hidden_state)
    return found.reshape(-1, found.shape[-1]).numpy()


COMMON = dict(
    media=tiled, extra=seen, make=mended, tower=features, vision=VISION, axis=1, root=dict(video_token_id=None),
    sizes=((1, 2), (3, 1)),
)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
CASES = (
    Case("mllama", "cross", text=dict(cross_attention_layers=[1, 3]), **COMMON),
    Case(
        "mllama", "adjacent", text=dict(cross_attention_layers=[0, 2], rope_parameters=LLAMA3), around=((), ()),
        **COMMON,
    ),
)
