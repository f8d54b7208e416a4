"""GGUF files of vision-language models' text halves: transformers' logits for text, whatever their towers are."""

import json

import mlx.core as mx
import numpy as np
import pytest
from gguf_converter import convert
from safetensors.numpy import load_file
from vlm import reference
from vlm.cases import CASES

from mlxlm.load import load_model

NAMED = {case.name: case for case in CASES}
SECTIONS = {"rope.dimension_sections": [2, 3, 3, 0]}
WIDE = {"attention.key_length": 16, "attention.value_length": 16}
# architecture: (a row of the vision matrix, the type that the file loads as, metadata beside what all have)
ROWS = {
    "qwen2vl": ("qwen2_vl-plain", "qwen2_vl_text", SECTIONS),
    "qwen3vl": ("qwen3_vl-deepstack", "qwen3_vl_text", {**SECTIONS, **WIDE, "n_deepstack_layers": 2}),
    "qwen3vlmoe": ("qwen3_vl_moe-deepstack", "qwen3_vl_moe_text", {
        **SECTIONS, **WIDE, "expert_feed_forward_length": 32, "n_deepstack_layers": 1}),
    "deepseek2-ocr": ("deepseek_ocr-whole", "deepseek_ocr", {
        "leading_dense_block_count": 1, "expert_shared_count": 2, "expert_feed_forward_length": 32,
        "rope.dimension_count": 0, "rope.freq_base": 10_000.0, "attention.layer_norm_rms_epsilon": 1e-6,
        "expert_group_count": None, "expert_group_used_count": None}),
}  # fmt: skip
TOWERS = ("visual.", "vision_model", "sam_model", "projector", "image_newline", "view_seperator")


def text_half(state):
    """The decoder's tensors under a text model's names."""
    own = {name: w for name, w in state.items() if not any(part in name for part in TOWERS)}
    return {name.replace("model.language_model.", "model."): w for name, w in own.items()}


@pytest.mark.parametrize("architecture", ROWS)
def test_text_halves_give_transformers_logits(tmp_path, architecture):
    name, model_type, metadata = ROWS[architecture]
    case = NAMED[name]
    model = reference.build(case)
    folder = reference.save(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    tied = config.get("tie_word_embeddings", False)
    config = {**config, **config.get("text_config", config), "tie_word_embeddings": tied}
    state = text_half(load_file(folder / "model.safetensors"))
    path = convert(tmp_path / "m.gguf", architecture, state, config, metadata, {})
    ours = load_model(path)
    assert ours.config.model_type == model_type
    prompt = reference.prompt(case, length=20)
    found = np.array(ours(mx.array(prompt.ids)[None], cache=ours.make_cache()))[0]
    reference.assert_close(found, reference.logits(model, case, prompt))
