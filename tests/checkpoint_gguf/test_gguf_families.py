"""A GGUF of every further architecture that llama.cpp and this package share, against transformers' logits."""

import json
import statistics

import gguf
import mlx.core as mx
import numpy as np
import pytest
import torch
from gguf import quants
from gguf_converter import NEWER, STACKED, convert, ternary
from parity import reference
from parity.cases import CASES
from parity.cases.dense import EIGHTS, GPT, LLAMA4, LOCAL, TEMPERED
from parity.cases.others import as_bailing
from parity.cases.recurrent import DELTA, GRANITE, JAMBA, LFM, LFM_MOE, SHARED
from parity.cases.shared import FOUR, TAME, N
from parity.reference import Case
from safetensors.numpy import load_file

from mlxlm.checkpoint.gguf_architectures import ARCHITECTURES
from mlxlm.load import load_model

NAMED = {case.name: case for case in CASES}
SSM = {"ssm.conv_kernel": 4, "ssm.state_size": 8}
HEADLESS = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
LONG = dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.5, **EIGHTS)
GAIN = float(1 + np.log(64 / 16) / np.log(16)) ** 0.5
SLIDING = ["sliding_attention", "full_attention"] * 2
THREE = ["sliding_attention"] * 3 + ["full_attention"]


def as_ling_plain(state, config):
    """Mixtral in Ling's words."""
    own = dict(num_shared_experts=0, use_qk_norm=False, first_k_dense_replace=0, norm_topk_prob=True, head_dim=16,
               moe_intermediate_size=config.get("intermediate_size"))
    dropped = ("router_jitter_noise", "output_router_logits", "router_aux_loss_coef")
    return as_bailing(state, {k: v for k, v in config.items() if k not in dropped}, **own)


def windows(kinds):
    near = [kind == "sliding_attention" for kind in kinds]
    return {"attention.sliding_window": 5, "attention.sliding_window_pattern": near}


# architecture: (a row of the parity matrix or a case, metadata beside what all have)
ROWS = {
    "gemma": ("gemma-plain", {"rope.freq_base": None}),
    "phi2": (Case("phi", "gguf", dict(intermediate_size=256)), {"rope.dimension_count": 8, "feed_forward_length": 256}),
    "phi3": ("phi3-longrope-half-turned", {
        "rope.dimension_count": 8, "rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": GAIN,
        "attention.sliding_window": 0}),
    "starcoder2": ("starcoder2-plain-tied", {}),
    "command-r": ("cohere-norms-biases", {"logit_scale": 0.3, "rope.scaling.type": "none"}),
    "cohere2": (Case("cohere2", "gguf", dict(sliding_window=5, tie_word_embeddings=True)), {
        "logit_scale": 0.0625, "attention.sliding_window": 5, "rope.scaling.type": "none", "rope.dimension_count": 16}),
    "internlm2": ("internlm2-groups", {}),
    "granite": ("granite-multipliers", {
        "attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.4, "logit_scale": 2.5}),
    "granitemoe": ("granitemoe-multipliers", {
        "attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.4, "logit_scale": 2.5}),
    "minicpm": ("minicpm-scaled", {"embedding_scale": 12.0, "residual_scale": 1.4 / 2, "logit_scale": 4.0}),
    "minicpm3": (Case("minicpm3", "gguf", dict(
        hidden_size=64, num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=12,
        qk_rope_head_dim=8, head_dim=8, v_head_dim=16, scale_emb=12.0, scale_depth=1.4, dim_model_base=256)), {
        "attention.q_lora_rank": 24, "attention.kv_lora_rank": 32, "attention.key_length": 20,
        "attention.value_length": None, "rope.dimension_count": 8}),
    "bitnet": (Case("bitnet", "gguf", dict(tie_word_embeddings=True)), {
        "rope.scaling.type": "linear", "rope.scaling.factor": 1.0}),
    "ernie4_5": ("ernie4_5-plain", {}),
    "ernie4_5-moe": ("ernie4_5_moe-steered", {
        "expert_count": 8, "expert_used_count": 3, "interleave_moe_layer_step": 1, "leading_dense_block_count": 1,
        "expert_feed_forward_length": 32, "expert_shared_count": 2, "expert_shared_feed_forward_length": 48}),
    "exaone": ("exaone-untied", {"rope.dimension_count": 16, "attention.layer_norm_rms_epsilon": 1e-6,
                                 "attention.layer_norm_epsilon": None}),
    "exaone4": ("exaone4-letters", windows(THREE)),
    "olmo": ("olmo-clipped", {"attention.clamp_kqv": 0.9, "attention.layer_norm_epsilon": 1e-5,
                              "attention.layer_norm_rms_epsilon": None}),
    "olmo2": ("olmo2-plain", {}),
    "stablelm": ("stablelm-parallel-norms", {"use_parallel_residual": True, "rope.dimension_count": 8}),
    "gpt2": ("gpt2-four-times-wide", {"feed_forward_length": 256, "attention.head_count_kv": None}),
    "starcoder": (Case("gpt_bigcode", "gguf", dict(n_inner=256), drop=GPT), {"attention.head_count_kv": 1}),
    "gptneox": (Case("gpt_neox", "gguf", dict(intermediate_size=256), drop=("num_key_value_heads",)), {
        "rope.dimension_count": 4, "use_parallel_residual": True}),
    "falcon": ("falcon-groups-two-norms", {"attention.head_count_kv": 2, "feed_forward_length": 256,
                                           "tensor_data_layout": "jploski"}),
    "mpt": ("mpt-plain", {"feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5,
                          "attention.max_alibi_bias": 8.0}),
    "hunyuan-dense": ("hunyuan_v1_dense-plain", {}),
    "seed_oss": ("seed_oss-plain", {}),
    "apertus": (Case("apertus", "gguf", dict(rope_parameters=dict(rope_type="default", rope_theta=5e4))), {}),
    "mistral3": ("ministral3-tempered", {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16,
        "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
        "rope.scaling.yarn_log_multiplier": TEMPERED["mscale_all_dim"],
        "attention.temperature_scale": TEMPERED["llama_4_scaling_beta"]}),
    "glm4": ("glm4-plain", {"rope.dimension_count": 8}),
    "chatglm": ("glm-plain", {"rope.dimension_count": 8}),
    "qwen2moe": ("qwen2_moe-plain", {"expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 48}),
    "dots1": ("dots1-one-group", {
        "expert_feed_forward_length": 32, "leading_dense_block_count": 1, "expert_shared_count": 2,
        "expert_weights_scale": 1.7, "expert_weights_norm": False, "expert_gating_func": 2}),
    "deepseek32": ("deepseek_v32-indexed", {
        "expert_weights_scale": 1.7, "leading_dense_block_count": 1, "expert_shared_count": 1,
        "expert_feed_forward_length": 32, "attention.q_lora_rank": 32, "attention.kv_lora_rank": 32,
        "attention.key_length": 40, "attention.value_length": 32, "attention.key_length_mla": 20,
        "attention.value_length_mla": 10, "rope.dimension_count": 8, "attention.head_count_kv": 1,
        "expert_gating_func": 2, "expert_weights_norm": True, "attention.indexer.head_count": 16,
        "attention.indexer.key_length": 16, "attention.indexer.top_k": 7}),
    "phimoe": ("phimoe-plain", {"expert_count": 8}),
    "olmoe": ("olmoe-plain", {}),
    "bailingmoe": (Case("bailing_moe", "gguf", LOCAL, like="mixtral", rewrite=as_ling_plain), {
        "expert_feed_forward_length": 64, "leading_dense_block_count": 0, "expert_weights_scale": 1.0,
        "expert_shared_count": 0, "expert_weights_norm": True}),
    "bailingmoe2": ("bailing_moe-sigmoid-bias-half-turned", {
        "expert_feed_forward_length": 32, "leading_dense_block_count": 1, "expert_weights_scale": 1.7,
        "expert_shared_count": 2, "expert_shared_feed_forward_length": 64, "expert_weights_norm": True,
        "rope.dimension_count": 8}),
    "minimax-m2": ("minimax_m2-half-turned", {"expert_feed_forward_length": 96, "rope.dimension_count": 8,
                                              "expert_gating_func": 2}),
    "afmoe": (Case("afmoe", "gguf", dict(
        head_dim=16, sliding_window=5, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
        layer_types=THREE, mup_enabled=True, route_scale=2.5)), {
        "attention.sliding_window": 5, "expert_shared_count": 2, "expert_feed_forward_length": 32,
        "leading_dense_block_count": 1, "expert_weights_norm": True, "expert_weights_scale": 2.5}),
    "exaone-moe": ("exaone_moe-window", {
        **windows(SLIDING), "expert_feed_forward_length": 32, "expert_shared_count": 1,
        "expert_shared_feed_forward_length": 32, "expert_weights_scale": 2.5, "expert_weights_norm": True,
        "leading_dense_block_count": 1, "rope.scaling.type": "none"}),
    "mimo2": ("mimo_v2_flash-sinks", {
        "attention.head_count_kv": [2, 4, 2, 4], "attention.sliding_window": 6, "attention.value_length": 12,
        "attention.sliding_window_pattern": [k == "sliding_attention" for k in SLIDING[::-1]],
        "expert_feed_forward_length": 32, "rope.dimension_count": 8, "rope.freq_base_swa": 1e4,
        "attention.value_scale": 0.707, "expert_gating_func": 2, "expert_weights_norm": True}),
    "llama4": (Case("llama4_text", "gguf", dict(
        LLAMA4, num_experts_per_tok=1, floor_scale=8192, attn_scale=0.1, attention_chunk_size=8192)), {
        "interleave_moe_layer_step": 1, "expert_feed_forward_length": 64, "feed_forward_length": 96}),
    "mamba": (Case("mamba", "gguf", dict(state_size=8, time_step_rank=5, intermediate_size=128), HEADLESS), {
        **SSM, "ssm.inner_size": 128, "ssm.time_step_rank": 5, "ssm.dt_b_c_rms": False, "feed_forward_length": 0,
        "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": None}),
    "mamba2": (Case("mamba2", "gguf", dict(
        num_heads=16, head_dim=8, state_size=8, n_groups=4, intermediate_size=128), HEADLESS), {
        **SSM, "ssm.inner_size": 128, "ssm.time_step_rank": 16, "ssm.group_count": 4, "feed_forward_length": 0,
        "attention.head_count": 0, "attention.key_length": None, "attention.value_length": None,
        "attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": None}),
    "jamba": (Case("jamba", "gguf", JAMBA), {
        **SSM, "attention.head_count_kv": [0, 2, 0, 0], "ssm.inner_size": 128, "ssm.time_step_rank": 6}),
    "falcon-h1": ("falcon_h1-keys-multiplied", {**SSM, "ssm.inner_size": 48, "ssm.time_step_rank": 6,
                                                "ssm.group_count": 1}),
    "granitehybrid": (Case("granitemoehybrid", "gguf", dict(GRANITE, position_embedding_type="nope")), {
        **SSM, "ssm.inner_size": 128, "ssm.time_step_rank": 16, "ssm.group_count": 1,
        "attention.head_count_kv": [0, 2, 0, 2], "attention.scale": 0.2, "embedding_scale": 3.0,
        "residual_scale": 0.4, "logit_scale": 2.5, "expert_shared_feed_forward_length": 32,
        "rope.scaling.finetuned": False}),
    "lfm2": (Case("lfm2", "gguf", LFM), {"attention.head_count_kv": [0, 2, 0, 0], "shortconv.l_cache": 3,
                                         "feed_forward_length": 96}),
    "lfm2moe": (Case("lfm2_moe", "gguf", LFM_MOE), {
        "attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3, "expert_feed_forward_length": 32,
        "leading_dense_block_count": 1, "expert_gating_func": 2}),
    "qwen3next": ("qwen3_next-delta-moe", {
        "ssm.conv_kernel": 4, "ssm.state_size": 24, "ssm.group_count": 2, "ssm.time_step_rank": 4,
        "ssm.inner_size": 64, "full_attention_interval": 4, "rope.dimension_count": 4,
        "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 32}),
    "qwen35": (Case("qwen3_5_text", "gguf", DELTA), {
        "ssm.conv_kernel": 4, "ssm.state_size": 24, "ssm.group_count": 2, "ssm.time_step_rank": 4,
        "ssm.inner_size": 64, "full_attention_interval": 4, "rope.dimension_count": 4,
        "rope.dimension_sections": [11, 11, 10, 0]}),
    "qwen35moe": (Case("qwen3_5_moe_text", "gguf", dict(DELTA, **SHARED)), {
        "ssm.conv_kernel": 4, "ssm.state_size": 24, "ssm.group_count": 2, "ssm.time_step_rank": 4,
        "ssm.inner_size": 64, "full_attention_interval": 4, "rope.dimension_count": 4,
        "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 32}),
    "openelm": ("openelm-growing", {}),
    "gemma3n": (Case("gemma3n_text", "gguf", dict(
        N, activation_sparsity_pattern=[0.9, 0.5, 0.0] * 2, intermediate_size=[64, 96] * 3), values=TAME), {
        "feed_forward_length": [64, 96] * 3, "altup.active_idx": 0, "altup.num_inputs": 4,
        "embedding_length_per_layer_input": 8, "attention.shared_kv_layers": 3, "attention.sliding_window": 5,
        "attention.sliding_window_pattern": [True, False] * 3,
        "activation_sparsity_scale": [statistics.NormalDist().inv_cdf(p) if p else float("-inf")
                                      for p in [0.9, 0.5, 0.0] * 2],
        "final_logit_softcapping": 30.0}),
    "gemma4": (Case("gemma4_text", "gguf", dict(
        FOUR, num_kv_shared_layers=3, use_double_wide_mlp=True, final_logit_softcapping=20.0), values=TAME), {
        "attention.key_length": 24, "attention.value_length": 24, "attention.key_length_swa": 16,
        "attention.value_length_swa": 16, "attention.sliding_window": 5, "attention.shared_kv_layers": 3,
        "attention.sliding_window_pattern": [True, False] * 3, "embedding_length_per_layer_input": 8,
        "feed_forward_length": [96] * 3 + [192] * 3, "final_logit_softcapping": 20.0, "rope.dimension_count": 24,
        "rope.dimension_count_swa": 16}),
}
MORE = {
    "mixtral": ("llama", "mixtral-plain", {}),
    "olmo3": ("olmo2", Case("olmo3", "gguf", dict(sliding_window=5)), windows(THREE)),
    "falcon 7B": ("falcon", "falcon-one-key-for-all", {"attention.head_count_kv": 1, "feed_forward_length": 256}),
    "stablelm after": ("stablelm", "stablelm-quarter-turned", {"use_parallel_residual": False,
                                                               "rope.dimension_count": 4}),
    "falcon mamba": ("mamba", Case("falcon_mamba", "gguf", dict(
        num_hidden_layers=2, state_size=16, time_step_rank=16, intermediate_size=128), HEADLESS), {
        "ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.inner_size": 128, "ssm.time_step_rank": 16,
        "ssm.dt_b_c_rms": True, "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": None}),
    "deepseek v2": ("deepseek2", "deepseek_v2-greedy", {
        "expert_weights_scale": 1.7, "leading_dense_block_count": 1, "expert_shared_count": 2,
        "expert_feed_forward_length": 32, "attention.q_lora_rank": 32, "attention.kv_lora_rank": 32,
        "attention.key_length": 40, "attention.value_length": 32, "attention.key_length_mla": 20,
        "attention.value_length_mla": 10, "rope.dimension_count": 8, "attention.head_count_kv": 1,
        "expert_gating_func": 1}),
    "glm 4.7 flash": ("deepseek2", "glm4_moe_lite-plain", {
        "expert_weights_scale": 1.7, "leading_dense_block_count": 1, "expert_shared_count": 1,
        "expert_feed_forward_length": 32, "attention.q_lora_rank": 32, "attention.kv_lora_rank": 32,
        "attention.key_length": 40, "attention.value_length": 32, "attention.key_length_mla": 20,
        "attention.value_length_mla": 10, "rope.dimension_count": 8, "attention.head_count_kv": 1,
        "expert_gating_func": 2, "expert_weights_norm": True}),
    "granite hybrid, dense": ("granitehybrid", Case("granitemoehybrid", "gguf-dense", dict(
        GRANITE, num_local_experts=0, shared_intermediate_size=96, mamba_n_groups=2,
        position_embedding_type="nope")), {
        **SSM, "ssm.inner_size": 128, "ssm.time_step_rank": 16, "ssm.group_count": 2,
        "attention.head_count_kv": [0, 2, 0, 2], "attention.scale": 0.2, "embedding_scale": 3.0,
        "residual_scale": 0.4, "logit_scale": 2.5, "rope.scaling.finetuned": False, "expert_used_count": None,
        "expert_count": None}),
}
FIRST = {"llama", "smollm3", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "glm4moe", "deepseek2", "gpt-oss",
         "nemotron_h", "nemotron_h_moe"}  # test_gguf_architectures.py
HALVES = {"qwen2vl", "qwen3vl", "qwen3vlmoe", "deepseek2-ocr"}  # test_gguf_halves.py
ALL = {**{name: (name, *row) for name, row in ROWS.items()}, **MORE}


def made(tmp_path, name, change=lambda name, value: value):
    """(path of the GGUF, token ids, transformers' logits); ``change`` may quantize a tensor."""
    architecture, case, own = ALL[name]
    case = NAMED[case] if isinstance(case, str) else case
    model = reference.build(case)
    tmp_path.mkdir(exist_ok=True)
    folder = reference.save(model, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if name == "openelm":
        own = {"attention.head_count": config["num_query_heads"], "attention.head_count_kv": config["num_kv_heads"],
               "feed_forward_length": [state[f"transformer.layers.{i}.ffn.proj_1.weight"].shape[0] // 2
                                       for i in range(len(config["num_kv_heads"]))],
               "rope.freq_base": float(config["rope_freq_constant"]), "context_length": config["rope_max_length"],
               "attention.layer_norm_rms_epsilon": 1e-6}
    for stem in {n.partition(".norms.")[0] for n in state if ".norms." in n}:
        STACKED[stem] = np.stack([state[f"{stem}.norms.{i}.weight"] for i in range(64)
                                  if f"{stem}.norms.{i}.weight" in state])
    factors = {f"rope_factors_{w}.weight": np.array(EIGHTS[f"{w}_factor"], np.float32) for w in ("long", "short")}
    path = convert(tmp_path / "m.gguf", architecture, state, config, own, factors if name == "phi3" else {}, change)
    if name == "bitnet":  # the converter rounds what is to be ternary
        model.load_state_dict({n: torch.tensor(ternary(w) if n.endswith("_proj.weight") else w)
                               for n, w in state.items()}, strict=False)
    ids = reference.tokens(case)
    return path, ids, reference.logits(model, ids)


@pytest.mark.parametrize("name", ALL)
def test_logits_are_transformers(tmp_path, name):
    path, ids, wanted = made(tmp_path, name)
    model = load_model(path)
    found = np.array(model(mx.array(ids), cache=model.make_cache()))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * wanted.std()


WIDE = dict(DELTA, linear_value_head_dim=32, linear_key_head_dim=32)
NET = {"ssm.conv_kernel": 4, "ssm.state_size": 32, "ssm.group_count": 2, "ssm.time_step_rank": 4, "ssm.inner_size": 128,
       "full_attention_interval": 4, "rope.dimension_count": 4}
ALL |= {
    "wide net": ("qwen35", Case("qwen3_5_text", "gguf-wide", WIDE), NET),
    "wide fused net": ("qwen3next", Case("qwen3_next", "gguf-wide", dict(WIDE, **SHARED)), {
        **NET, "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 32}),
}


@pytest.mark.parametrize("name, kind", [
    ("wide net", "Q4_0"), ("wide fused net", "Q8_0"), ("granitehybrid", "Q8_0"), ("deepseek v2", "Q8_0"),
    ("phi3", "Q5_1"), ("falcon", "Q4_1"), ("gemma4", "Q8_0"), ("lfm2moe", "Q4_0"),
])
def test_quantized_weights_give_the_logits_of_their_values(tmp_path, name, kind):
    number = gguf.GGMLQuantizationType[kind]

    def packed(tensor, value):
        plain = value.ndim < 2 or value.shape[-1] % 32 or any(
            part in tensor for part in ("ffn_gate_inp", "ssm_conv", "ssm_a", "ssm_norm", "shortconv.conv", "rope_"))
        return value if plain else (quants.quantize(np.ascontiguousarray(value), number), number)

    def values(tensor, value):
        found = packed(tensor, value)
        return quants.dequantize(found[0], number) if isinstance(found, tuple) else value

    path, ids, _ = made(tmp_path, name, packed)
    model = load_model(path)
    assert any(hasattr(module, "bits") for module in model.modules())
    found = np.array(model(mx.array(ids)))
    exact = load_model(made(tmp_path / "exact", name, values)[0])
    wanted = np.array(exact(mx.array(ids)))
    assert np.abs(found - wanted).max() <= 2e-4 * wanted.std()


def test_every_architecture_that_both_know_is_read_and_tested():
    assert {row[0] for row in ALL.values()} | FIRST | HALVES == set(ARCHITECTURES)
    assert set(ARCHITECTURES) <= set(gguf.MODEL_ARCH_NAMES.values()) | set(NEWER)
