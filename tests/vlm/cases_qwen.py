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
TURNS = {**ROPE, "mrope_interleaved": True}
QWEN3 = dict(VISION, num_position_embeddings=25, hidden_act="gelu_pytorch_tanh")
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
DELTA = dict(
    head_dim=16,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=3,
    layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"],
    rope_parameters={**TURNS, "mrope_section": [3, 3, 2], "partial_rotary_factor": 1.0},
)


def framewise(sizes, rng):
    """Videos whose frames stand apart in the prompt: as many stretches of places as frames."""
    media, counts = GRIDS["videos"](sizes, rng)
    frames = media["video_grid_thw"][:, 0]
    return media, [count // t for count, t in zip(counts, frames.tolist(), strict=True) for _ in range(t)]


APART = dict(GRIDS, videos=framewise)

CASES = (
    Case(
        "qwen2_vl",
        "plain",
        text=dict(rope_parameters=ROPE),
        vision={**{k: v for k, v in VISION.items() if k not in ("intermediate_size", "out_hidden_size")},
                "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        sizes=((4, 6), (8, 4)),
        clips=((2, 8, 8), (3, 4, 10)),
        **GRIDS,
    ),
    Case(
        "qwen2_5_vl",
        "windows",
        text=dict(rope_parameters=ROPE),
        vision=dict(VISION, window_size=32, fullatt_block_indexes=[1], tokens_per_second=2),
        sizes=((10, 14), (6, 12)),
        clips=((2, 8, 8), (3, 4, 10)),
        **GRIDS,
    ),
    Case(
        "qwen2_5_vl",
        "tied-sliding",
        text=dict(rope_parameters=ROPE, use_sliding_window=True, sliding_window=9, max_window_layers=2),
        root=dict(tie_word_embeddings=True),
        vision=dict(VISION, window_size=16, fullatt_block_indexes=[0, 2], tokens_per_second=2),
        clips=((2, 4, 6), (1, 6, 4)),
        **GRIDS,
    ),
    Case(
        "qwen3_vl",
        "deepstack",
        text=dict(rope_parameters=TURNS, head_dim=16),
        vision=dict(QWEN3, deepstack_visual_indexes=[0, 2]),
        **APART,
    ),
    Case(
        "qwen3_vl_moe",
        "deepstack",
        text=dict(rope_parameters=TURNS, head_dim=16, **EXPERTS),
        root=dict(tie_word_embeddings=False),
        vision=dict(QWEN3, deepstack_visual_indexes=[1]),
        **APART,
    ),
    Case("qwen3_5", "dense", text=DELTA, vision=QWEN3, **APART),
    Case(
        "qwen3_5_moe",
        "experts-shared",  # names are seeds: the weights of "experts" made any change of rounding a thousandfold
        text=dict(DELTA, shared_expert_intermediate_size=32, **EXPERTS),
        vision=QWEN3,
        drop=("intermediate_size",),
        **APART,
    ),
    Case(
        "glm_ocr",
        "images",
        text=dict(rope_parameters=ROPE),
        vision={**VISION, "rms_norm_eps": 1e-5},
        **{**GRIDS, "videos": None},
    ),
)
