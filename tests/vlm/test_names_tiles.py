"""InternVL, Llama 3.2 Vision, Gemmas, FastVLM and DeepSeek under all names: saved, quantized, and as released."""

import json
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from mlxlm.checkpoint.save import save_model
from mlxlm.load import load_model
from mlxlm.registry import VLMTypeRegistry

from . import cases_deepseek, cases_fastvlm, cases_gemma, cases_mllama, cases_tiles, reference
from .reference import assert_close

ALL = [case for m in (cases_tiles, cases_mllama, cases_gemma, cases_fastvlm, cases_deepseek) for case in m.CASES]
FIRST = {c.model_type: c for c in reversed(ALL)} | {"gemma4": next(c for c in ALL if c.name == "gemma4-both-ways")}
HALVES = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
NEWEST = {new: old for old, new in HALVES.items()} | {"multi_modal_projector.": "model.multi_modal_projector."}
OTHER = {  # spellings, from the one that the reference saves: those of the first releases and mlx-vlm, or the newest
    "internvl": {**NEWEST, "vision_tower.": "model.vision_tower."},
    "mllama": {**NEWEST, "vision_model.": "model.vision_model."},
    "gemma4": {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower.",
               "model.embed_vision.": "embed_vision."},
    "gemma3n": {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower.",
                "model.embed_vision.": "embed_vision."},
    "deepseek_vl": {**HALVES, "model.vision_model.": "model.vision_model.vision_model."},
    "deepseek_ocr": {"lm_head.": "language_model.lm_head.", "model.view_seperator": "view_separator",
                     **{f"model.{x}": x for x in ("sam_model", "vision_model", "projector", "image_newline")},
                     "model.": "language_model.model."},
}  # fmt: skip


def run(model, prompt):
    model.features.clear()
    return np.array(model(mx.array(prompt.ids)[None], **{name: mx.array(x) for name, x in prompt.media.items()}))[0]


@pytest.fixture(scope="module", params=FIRST)
def made(request, tmp_path_factory):
    """(case, its folder, a prompt, the reference's logits)."""
    case = FIRST[request.param]
    model = reference.build(case)
    prompt = reference.prompt(case, case.sizes)
    folder = reference.save(model, tmp_path_factory.mktemp(case.model_type) / "model")
    return case, folder, prompt, reference.logits(model, case, prompt)


@pytest.mark.parametrize("made", OTHER, indirect=True)
def test_other_names(made, tmp_path):
    case, folder, prompt, expected = made
    weights, table = load_file(folder / "model.safetensors"), OTHER[case.model_type]
    found = {n: next((n.replace(a, b, 1) for a, b in table.items() if n.startswith(a)), n) for n in weights}
    assert sum(new != old for new, old in found.items()) > len(weights) // 2
    save_file({found[n]: w for n, w in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert_close(run(load_model(tmp_path), prompt), expected)


def test_saved_and_quantized(made, tmp_path):
    """All that can be quantized is, towers and projectors too."""
    _, folder, prompt, expected = made
    config = json.loads((folder / "config.json").read_text())
    model = load_model(folder)
    save_model(model, tmp_path / "mlx", config=config)
    assert_close(run(load_model(tmp_path / "mlx"), prompt), expected)
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda _, module: (
        hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0))
    packed = [name for name, module in model.named_modules() if isinstance(module, nn.QuantizedLinear)]
    assert any("project" in name or "aligner" in name for name in packed)
    save_model(model, tmp_path / "quantized", config=config)
    assert_close(run(load_model(tmp_path / "quantized"), prompt), run(model, prompt))


# What config.json files of well-known releases say, and shapes that follow from it.
INTERN = {"architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0,
          "hidden_act": "gelu", "hidden_size": 1024, "image_size": 448, "initializer_factor": 1.0,
          "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-06,
          "model_type": "intern_vit_6b", "norm_type": "layer_norm", "num_attention_heads": 16, "num_channels": 3,
          "num_hidden_layers": 24, "output_attentions": False, "output_hidden_states": False, "patch_size": 14,
          "qk_normalization": False, "qkv_bias": True, "return_dict": True, "torch_dtype": "bfloat16",
          "use_bfloat16": True, "use_flash_attn": True}  # fmt: skip
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
         "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
         "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
         "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
         "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}, "rope_theta": 1000000.0,
         "sliding_window": None, "tie_word_embeddings": False, "use_bfloat16": True, "use_cache": True,
         "use_sliding_window": False, "vocab_size": 151674}  # fmt: skip
RELEASED = {
    "InternVL3-1B": (
        {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5,
         "dynamic_image_size": True, "force_image_size": 448, "hidden_size": 896, "image_fold": None,
         "llm_config": QWEN2, "max_dynamic_patch": 12, "min_dynamic_patch": 1, "output_attentions": False,
         "pad2square": False, "ps_version": "v2", "select_layer": -1, "system_message": None,
         "template": "internvl2_5", "tie_word_embeddings": False, "use_backbone_lora": 0, "use_llm_lora": 0,
         "use_thumbnail": True, "vision_config": INTERN,
         "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}},
        {"multi_modal_projector.linear_1.weight": (896, 4096), "vision_tower.embeddings.position_embedding":
         (1, 1025, 1024), "language_model.lm_head.weight": (151674, 896)},
    ),
    "Llama-3.2-11B-Vision-Instruct": (
        {"architectures": ["MllamaForConditionalGeneration"], "image_token_index": 128256, "model_type": "mllama",
         "text_config": {"cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38], "dropout": 0,
                         "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
                         "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072,
                         "model_type": "mllama_text_model", "num_attention_heads": 32, "num_hidden_layers": 40,
                         "num_key_value_heads": 8, "pad_token_id": 128004, "rms_norm_eps": 1e-05,
                         "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                                          "original_max_position_embeddings": 8192, "rope_type": "llama3"},
                         "rope_theta": 500000.0, "tie_word_embeddings": False, "use_cache": True,
                         "vocab_size": 128256},
         "vision_config": {"attention_heads": 16, "hidden_act": "gelu", "hidden_size": 1280, "image_size": 560,
                           "intermediate_layers_indices": [3, 7, 15, 23, 30], "intermediate_size": 5120,
                           "max_num_tiles": 4, "model_type": "mllama_vision_model", "norm_eps": 1e-05,
                           "num_channels": 3, "num_global_layers": 8, "num_hidden_layers": 32, "patch_size": 14,
                           "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
                           "vision_output_dim": 7680}},
        {"multi_modal_projector.weight": (4096, 7680), "language_model.model.embed_tokens.weight": (128264, 4096),
         "vision_tower.gated_positional_embedding.tile_embedding.weight": (9, 4 * 1601 * 1280),
         "language_model.model.layers.38.cross_attn.k_proj.weight": (1024, 4096)},
    ),
    "gemma-3n-E2B-it": (
        {"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n", "audio_config": {},
         "audio_soft_tokens_per_image": 188, "audio_token_id": 262273, "boa_token_id": 256000, "boi_token_id": 255999,
         "eoa_token_id": 262272, "eoi_token_id": 262144, "eos_token_id": [1, 106], "image_token_id": 262145,
         "initializer_range": 0.02, "vision_soft_tokens_per_image": 256,
         "text_config": {"model_type": "gemma3n_text", "num_hidden_layers": 30, "intermediate_size": 8192,
                         "num_kv_shared_layers": 10, "layer_types":
                         (["sliding_attention"] * 4 + ["full_attention"]) * 6,
                         "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20},
         "vision_config": {"architecture": "mobilenetv5_300m_enc", "do_pooling": False, "hidden_size": 2048,
                           "initializer_range": 0.02, "label_names": ["LABEL_0", "LABEL_1"], "model_args": None,
                           "model_type": "gemma3n_vision", "num_classes": 2, "rms_norm_eps": 1e-06,
                           "vocab_offset": 262144, "vocab_size": 128}},
        {"embed_vision.embedding.weight": (128, 2048), "vision_tower.conv_stem.conv.weight": (64, 3, 3, 3)},
    ),
    "FastVLM-0.5B": (
        {"architectures": ["LlavaQwen2ForCausalLM"], "model_type": "llava_qwen2", "attention_dropout": 0.0,
         "bos_token_id": 151643, "eos_token_id": 151645, "freeze_mm_mlp_adapter": False, "hidden_act": "silu",
         "hidden_size": 896, "image_aspect_ratio": "pad", "image_grid_pinpoints": None, "initializer_range": 0.02,
         "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
         "mm_hidden_size": 3072, "mm_patch_merge_type": "flat", "mm_projector_lr": None,
         "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
         "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": "mobileclip_l_1024",
         "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
         "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": False,
         "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right", "tune_mm_mlp_adapter": False,
         "unfreeze_mm_vision_tower": True, "use_cache": True, "use_mm_proj": True, "use_sliding_window": False,
         "vocab_size": 151936},
        {"mm_projector.0.weight": (896, 3072), "mm_projector.2.weight": (896, 896)},
    ),
    "DeepSeek-OCR": (
        {**cases_deepseek.RELEASED},
        {"projector.layers.weight": (1280, 2048), "vision_tower.sam_model.net_3.weight": (1024, 3, 3, 512),
         "language_model.model.layers.11.mlp.switch_mlp.up_proj.weight": (64, 896, 1280)},
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
