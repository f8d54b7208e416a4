"""Towers, projectors and text halves under all names of checkpoints, saved, quantized, and in released configs."""

import json
import re
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from safetensors.torch import save_file

from mlxlm.checkpoint.save import save_model
from mlxlm.load import load_model
from mlxlm.registry import VLMTypeRegistry

from . import reference
from .cases_halves import CASES
from .reference import assert_close

OLDEST = {  # transformers 5's names in memory to those of the first releases
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
}
BETWEEN = {"model.vision_tower.": "model.vision_tower.vision_model."}  # some releases of transformers 4
KINDS = {"newest": {}, "between": BETWEEN, "oldest": OLDEST}
FIRST = {c.model_type: c for c in reversed(CASES)}  # one variant of each type


def run(model, prompt):
    media = {name: mx.array(x) for name, x in prompt.media.items()}
    return np.array(model(mx.array(prompt.ids)[None], **media))[0]


@pytest.fixture(params=FIRST)
def made(request, tmp_path):
    """(case, the reference's model, its checkpoint, a prompt, its logits)."""
    case = FIRST[request.param]
    model = reference.build(case)
    prompt = reference.prompt(case, case.sizes)
    return case, model, reference.save(model, tmp_path / "model"), prompt, reference.logits(model, case, prompt)


@pytest.mark.parametrize("spelling", KINDS)
def test_spellings_of_names(made, tmp_path, spelling):
    case, model, saved, prompt, expected = made
    folder, table = tmp_path / spelling, KINDS[spelling]
    folder.mkdir()
    tied = model.config.get_text_config().tie_word_embeddings or getattr(model.config, "tie_word_embeddings", False)
    weights = {n: w.clone().contiguous() for n, w in model.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]
    if case.vision["model_type"].startswith("siglip"):
        weights["model.vision_tower.head.probe"] = torch.ones(1, 1, 32)  # the pooling head isn't read
    found = {n: next((n.replace(a, b, 1) for a, b in table.items() if n.startswith(a)), n) for n in weights}
    renamed = {found[n]: w for n, w in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((saved / "config.json").read_text())
    assert_close(run(load_model(folder), prompt), expected)


def test_saved_and_quantized(made, tmp_path):
    """In mlx-vlm's names and layout, from which the same numbers come back."""
    case, _, folder, prompt, expected = made
    config = json.loads((folder / "config.json").read_text())
    model = load_model(folder)
    save_model(model, tmp_path / "mlx", config=config)
    names = mx.load(str(tmp_path / "mlx" / "model.safetensors")).keys()
    roots = {name.split(".")[0] for name in names}
    assert roots <= {"vision_tower", "language_model", "multi_modal_projector", "image_newline"} or (
        roots == {"vision_model", "connector", "language_model"})
    if case.model_type != "lfm2_vl" and "vision_tower" in roots:
        assert all(n.startswith("vision_tower.vision_model.") for n in names if n.startswith("vision_tower."))
    assert_close(run(load_model(tmp_path / "mlx"), prompt), expected)
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda _, module: (
        hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0))
    save_model(model, tmp_path / "quantized", config=config)
    assert_close(run(load_model(tmp_path / "quantized"), prompt), run(model, prompt))


def test_pixtral_by_its_own_name(tmp_path):
    """As mlx-vlm converts it: LLaVA's form under another name, and a config that leaves out what follows from that."""
    case = next(c for c in CASES if c.variant == "pixtral-mistral")
    model = reference.build(case)
    prompt = reference.prompt(case, case.sizes)
    folder = reference.save(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for name in ("vision_feature_layer", "vision_feature_select_strategy"):
        del config[name]
    del config["vision_config"]["model_type"], config["text_config"]["model_type"]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "pixtral"}))
    loaded = load_model(folder)
    assert_close(run(loaded, prompt), reference.logits(model, case, prompt))


# What the config.json files of well-known releases say of both halves, and two shapes that follow from it.
RELEASED = {
    "llava-1.5-7b": (
        {"model_type": "llava", "ignore_index": -100, "image_token_index": 32000, "pad_token_id": 32001,
         "projector_hidden_act": "gelu", "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
         "tie_word_embeddings": False, "vocab_size": 32064, "torch_dtype": "float16",
         "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
                         "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
                         "torch_dtype": "float16", "vocab_size": 32064},
         "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                           "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
                           "patch_size": 14, "projection_dim": 768, "vocab_size": 32000}},
        {"multi_modal_projector.linear_2.weight": (4096, 4096),
         "language_model.model.layers.31.mlp.down_proj.weight": (4096, 11008),
         "vision_tower.embeddings.position_embedding.weight": (577, 1024)},
    ),
    "llava-v1.6-mistral-7b": (
        {"model_type": "llava_next", "image_token_index": 32000, "projector_hidden_act": "gelu",
         "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
         "use_image_newline_parameter": True, "vision_feature_layer": -2, "vocab_size": 32064,
         "vision_feature_select_strategy": "default", "tie_word_embeddings": False, "image_seq_length": 576,
         "text_config": {"architectures": ["MistralForCausalLM"], "intermediate_size": 14336,
                         "max_position_embeddings": 32768, "model_type": "mistral", "num_key_value_heads": 8,
                         "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None, "vocab_size": 32064},
         "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                           "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
                           "patch_size": 14, "projection_dim": 768, "vocab_size": 32000}},
        {"image_newline": (4096,), "language_model.model.layers.0.self_attn.k_proj.weight": (1024, 4096)},
    ),
    "pixtral-12b": (
        {"model_type": "llava", "ignore_index": -100, "image_seq_length": 1, "image_token_index": 10,
         "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
         "text_config": {"head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336, "is_composition": True,
                         "max_position_embeddings": 1024000, "model_type": "mistral", "num_hidden_layers": 40,
                         "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0,
                         "sliding_window": None, "vocab_size": 131072},
         "vision_config": {"head_dim": 64, "hidden_act": "silu", "image_size": 1024, "is_composition": True,
                           "model_type": "pixtral", "patch_size": 16, "rope_theta": 10000.0,
                           "tie_word_embeddings": False}},
        {"multi_modal_projector.linear_1.weight": (5120, 1024), "vision_tower.patch_conv.weight": (1024, 16, 16, 3)},
    ),
    "paligemma-3b-mix-224": (
        {"model_type": "paligemma", "bos_token_id": 2, "eos_token_id": 1, "hidden_size": 2048, "ignore_index": -100,
         "image_token_index": 257152, "pad_token_id": 0, "projection_dim": 2048, "vocab_size": 257216,
         "text_config": {"hidden_size": 2048, "intermediate_size": 16384, "model_type": "gemma",
                         "num_attention_heads": 8, "num_hidden_layers": 18, "num_image_tokens": 256,
                         "num_key_value_heads": 1, "torch_dtype": "float32", "vocab_size": 257216},
         "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_vision_model",
                           "num_attention_heads": 16, "num_hidden_layers": 27, "num_image_tokens": 256,
                           "patch_size": 14, "projection_dim": 2048, "projector_hidden_act": "gelu_fast",
                           "vision_use_head": False}},
        {"multi_modal_projector.linear.weight": (2048, 1152),
         "language_model.model.embed_tokens.weight": (257216, 2048)},
    ),
    "gemma-3-4b-it": (
        {"model_type": "gemma3", "boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 106],
         "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
         "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                         "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                         "sliding_window": 1024},
         "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
                           "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27,
                           "patch_size": 14, "vision_use_head": False}},
        {"multi_modal_projector.mm_input_projection_weight": (1152, 2560),
         "language_model.model.embed_tokens.weight": (262208, 2560)},
    ),
    "SmolVLM2-500M-Video-Instruct": (
        {"model_type": "smolvlm", "image_token_id": 49190, "pad_token_id": 128002, "scale_factor": 4,
         "tie_word_embeddings": False, "use_cache": False, "vocab_size": 49280, "use_reentrant_checkpointing": False,
         "text_config": {"_flash_attn_2_enabled": True, "architectures": ["VLlama3ForCausalLM"], "head_dim": 64,
                         "hidden_size": 960, "intermediate_size": 2560, "is_llama_config": True,
                         "max_position_embeddings": 8192, "model_type": "llama", "neftune_noise_alpha": 0.0,
                         "num_attention_heads": 15, "num_hidden_layers": 32, "num_key_value_heads": 5,
                         "pad_token_id": 2, "perceiver_config": {"hidden_act": "silu", "model_type": "vllama3"},
                         "pixel_shuffle_factor": 4, "qk_layer_norms": False, "rms_norm_eps": 1e-05,
                         "rope_interleaved": False, "rope_theta": 100000, "use_resampler": False, "vocab_size": 49280},
         "vision_config": {"hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512},
                           "model_type": "smolvlm_vision", "num_attention_heads": 12, "patch_size": 16,
                           "size": {"longest_edge": 2048}, "tie_word_embeddings": False, "use_base_siglip": False}},
        {"connector.modality_projection.proj.weight": (960, 12288), "language_model.lm_head.weight": (49280, 960)},
    ),
    "Mistral-Small-3.1-24B": (
        {"model_type": "mistral3", "image_token_index": 10, "multimodal_projector_bias": False,
         "projector_hidden_act": "gelu", "spatial_merge_size": 2, "vision_feature_layer": -1,
         "text_config": {"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
                         "initializer_range": 0.02, "intermediate_size": 32768, "max_position_embeddings": 131072,
                         "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
                         "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0,
                         "sliding_window": None, "use_cache": True, "vocab_size": 131072},
         "vision_config": {"attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu", "hidden_size": 1024,
                           "image_size": 1540, "initializer_range": 0.02, "intermediate_size": 4096,
                           "model_type": "pixtral", "num_attention_heads": 16, "num_channels": 3,
                           "num_hidden_layers": 24, "patch_size": 14, "rope_theta": 10000.0}},
        {"multi_modal_projector.patch_merger.merging_layer.weight": (1024, 4096),
         "language_model.lm_head.weight": (131072, 5120)},
    ),
    "LFM2-VL-1.6B": (
        {"model_type": "lfm2-vl", "do_image_splitting": True, "downsample_factor": 2, "encoder_patch_size": 16,
         "image_token_index": 396, "max_image_tokens": 256, "max_num_patches": 1024, "max_pixels_tolerance": 2.0,
         "max_tiles": 10, "min_image_tokens": 64, "min_tiles": 2, "projector_bias": True,
         "projector_hidden_act": "gelu", "projector_hidden_size": 2560, "tile_size": 512,
         "use_image_special_tokens": True, "use_thumbnail": True, "vision_feature_layer": -1,
         "text_config": {"model_type": "lfm2", "block_auto_adjust_ff_dim": True, "block_dim": 2048,
                         "block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256,
                         "conv_L_cache": 3, "conv_bias": False, "full_attn_idxs": [2, 5, 8, 10, 12, 14],
                         "hidden_size": 2048, "max_position_embeddings": 128000, "norm_eps": 1e-05,
                         "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
                         "rope_theta": 1000000.0, "vocab_size": 65536},
         "vision_config": {"hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 4304,
                           "layer_norm_eps": 1e-06, "model_type": "siglip2_vision_model", "num_attention_heads": 16,
                           "num_channels": 3, "num_hidden_layers": 26, "num_patches": 256, "patch_size": 16,
                           "vision_use_head": False}},
        {"multi_modal_projector.linear_1.weight": (2560, 4608),
         "vision_tower.embeddings.patch_embedding.weight": (1152, 768)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_are_read_without_a_word(name):
    config, shapes = RELEASED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = VLMTypeRegistry.shared.create(config)
    found = {n: tuple(w.shape) for n, w in tree_flatten(model.parameters())}
    assert {n: found.get(n) for n in shapes} == shapes
    layers = {int(m[1]) for n in found if (m := re.search(r"language_model\..*layers\.(\d+)\.", n))}
    assert len(layers) == len(model.layers)
