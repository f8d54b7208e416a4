"""The cases of Qwen's vision-language models and of GLM-OCR, which share their towers' shape."""

from .reference import Case, grid_media, token_types

PATCH = 3 * 2 * 4 * 4  # channels, frames, size, size
GRIDS = dict(
    media=grid_media(("pixel_values", "image_grid_thw"), PATCH),
    videos=grid_media(("pixel_values_videos", "video_grid_thw"), PATCH),
    extra=token_types,
)
VISION = dict(
    hidden_size=32,
    out_hidden_size=64,
    num_heads=2,
    depth=3,
    patch_size=4,
    temporal_patch_size=2,
    spatial_merge_size=2,
    in_channels=3,
    intermediate_size=48,
)
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}

CASES = (
    Case(
        "qwen2_5_vl",
        "windows",
        text=dict(rope_parameters=ROPE),
        vision=dict(VISION, window_size=32, fullatt_block_indexes=[1], tokens_per_second=2),
        sizes=((10, 14), (6, 12)),
        clips=((2, 8, 8), (3, 4, 10)),
        **GRIDS,
    ),
)
