"""The cases of DeepSeek-VL, the small one and the one that sees finer too."""

import numpy as np

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
    import torch

    arrays = {k: torch.from_numpy(v) for k, v in media.items()}
    with torch.no_grad():
        rows = model.model.get_image_features(**arrays).pooler_output
    return rows.reshape(-1, rows.shape[-1]).numpy()


COMMON = dict(sizes=((16,), (16,)), text=LLAMA, vision=SIGLIP, tower=features)
CASES = (
    Case("deepseek_vl", "siglip", media=squares, root=ROOT, **COMMON),
    Case("deepseek_vl", "tied", media=squares, root=dict(video_token_id=None), **{**COMMON, "text": dict(LLAMA, tie_word_embeddings=True)}),
    Case("deepseek_vl_hybrid", "sam", media=two_sizes, root=dict(ROOT, high_res_vision_config=SAM), **COMMON),
)  # fmt: skip
