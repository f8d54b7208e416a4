"""Configs as they were released are read without a complaint, and make as many parameters as transformers does."""

import warnings

import pytest
import torch
from mlx.utils import tree_flatten
from transformers import AutoConfig, AutoModelForImageTextToText

from mlxlm.registry import VLMRegistry, VLMTypeRegistry

QWEN2 = {"attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
         "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655, "video_token_id": 151656,
         "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
         "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
         "transformers_version": "4.41.2", "use_sliding_window": False, "vocab_size": 151936,
         "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
QWEN2_EYES = {"depth": 32, "num_heads": 16, "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2,
              "spatial_patch_size": 14, "temporal_patch_size": 2}
RELEASED = {
    "Qwen2-VL-2B-Instruct": {
        **QWEN2, "architectures": ["Qwen2VLForConditionalGeneration"], "hidden_size": 1536, "intermediate_size": 8960,
        "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2_vl", "num_attention_heads": 12,
        "num_hidden_layers": 28, "num_key_value_heads": 2,
        "vision_config": {**QWEN2_EYES, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 1536}},
    "Qwen2.5-VL-3B-Instruct": {
        **QWEN2, "architectures": ["Qwen2_5_VLForConditionalGeneration"], "hidden_size": 2048,
        "intermediate_size": 11008, "max_position_embeddings": 128000, "max_window_layers": 70,
        "model_type": "qwen2_5_vl", "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 2,
        "vision_config": {**QWEN2_EYES, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420,
                          "out_hidden_size": 2048, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
                          "tokens_per_second": 2}},
    "Qwen3-VL-4B-Instruct": {
        "architectures": ["Qwen3VLForConditionalGeneration"], "image_token_id": 151655, "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "dtype": "bfloat16",
            "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560,
            "initializer_range": 0.02, "intermediate_size": 9728, "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text", "num_attention_heads": 32, "num_hidden_layers": 36,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_theta": 5000000, "tie_word_embeddings": True,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "use_cache": True, "vocab_size": 151936},
        "tie_word_embeddings": True, "transformers_version": "4.57.0.dev0", "video_token_id": 151656,
        "vision_config": {
            "deepstack_visual_indexes": [5, 11, 17], "depth": 24, "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1024, "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 4096,
            "model_type": "qwen3_vl", "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 2560,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
        "vision_end_token_id": 151653, "vision_start_token_id": 151652},
}
TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm_ocr")


def ours(config) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = VLMTypeRegistry.shared.create(config)
    return sum(p.size for _, p in tree_flatten(model.parameters()))


def theirs(config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs(name):
    config = RELEASED[name]
    assert ours(config) == theirs(AutoConfig.for_model(**config))


@pytest.mark.parametrize("model_type", TYPES)
def test_what_a_config_leaves_out_is_what_transformers_assumes(model_type):
    config = AutoConfig.for_model(model_type, text_config={}, vision_config={})
    assert ours({"model_type": model_type, "text_config": {}, "vision_config": {}}) == theirs(config)


def test_presets_are_of_types_that_are_built_here():
    for preset in VLMRegistry.models:
        assert preset.id and VLMRegistry.contains(preset.id)
    assert VLMRegistry.qwen2_5VL3BInstruct4Bit.id == "mlx-community/Qwen2.5-VL-3B-Instruct-4bit"
