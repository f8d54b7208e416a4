"""FastVLM's text half: Qwen 2, in a config.json that says at its root what lies beside it too."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..weights import Drop, Rename
from . import llama, qwen2


@dataclass(kw_only=True)
class Config(qwen2.Config):
    UNREAD = frozenset({
        "freeze_mm_mlp_adapter", "image_aspect_ratio", "image_grid_pinpoints", "image_token_index", "mm_hidden_size",
        "mm_patch_merge_type", "mm_projector_lr", "mm_projector_type", "mm_use_im_patch_token", "mm_use_im_start_end",
        "mm_vision_select_feature", "mm_vision_select_layer", "mm_vision_tower", "tokenizer_model_max_length",
        "tokenizer_padding_side", "tune_mm_mlp_adapter", "unfreeze_mm_vision_tower", "use_mm_proj", "ignore_index",
        "mm_vision_tower_lr", "mm_resampler_type", "mm_tunable_parts", "add_faster_video", "projector_hidden_act",
    })  # fmt: skip


ARCHITECTURE = Architecture(
    Config,
    partial(llama.build, qkv_bias=True),
    (
        Rename("^language_model.model", "model"),
        Rename("^language_model.lm_head", "lm_head"),
        *(Drop(f"^{root}{part}") for root in ("", "model.") for part in ("vision_tower", "mm_projector")),
    ),
)
