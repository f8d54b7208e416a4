"""Logits of GGUF files against transformers on the checkpoints they were made from, architecture by architecture."""

import gguf
import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from gguf import quants
from gguf_made import converted, llama, tokenizer, write

from mlxlm.checkpoint.gguf import open_gguf
from mlxlm.errors import ConfigError, WeightError
from mlxlm.load import load_model

SIZES = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
GROUPED = {**MOE, "n_routed_experts": 8, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5}
NEMOTRON = {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "conv_kernel": 4, "n_groups": 2,
            "head_dim": 16,
            "expand": 2}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
# name: (transformers' config, its settings, GGUF's architecture, metadata beside what all have)
CASES = {
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": True}, "llama", {}),
    "llama tied, llama3 rope": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}, "llama", {}),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": None}, "llama", {}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4}, "smollm3", {}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}, "qwen2", {}),
    "qwen3 yarn": ("Qwen3", {"head_dim": 32, "rope_parameters": YARN}, "qwen3",
                   {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                    "rope.scaling.original_context_length": 128}),
    "qwen3moe": ("Qwen3Moe", {**MOE, "head_dim": 32, "num_experts": 8, "norm_topk_prob": True}, "qwen3moe",
                 {"expert_count": 8}),
    "gemma2": ("Gemma2", {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32}, "gemma2",
               {"attention.sliding_window": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma3": ("Gemma3Text", {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32, "num_hidden_layers": 7},
               "gemma3", {"attention.sliding_window": 8, "rope.freq_base": 1e6}),
    "glm4moe": ("Glm4Moe", {**GROUPED, "head_dim": 32, "use_qk_norm": True, "attention_bias": True}, "glm4moe",
                {"rope.dimension_count": 16}),
    "deepseek2": ("DeepseekV3", {**GROUPED, "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32,
                                 "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_group": 4,
                                 "topk_group": 2, "n_shared_experts": 1,
                                 "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}, "deepseek2",
                  {"attention.q_lora_rank": 32, "attention.kv_lora_rank": 32, "attention.key_length_mla": 48,
                   "attention.value_length_mla": 32, "rope.dimension_count": 16, "attention.head_count_kv": 1,
                   "expert_group_count": 4, "expert_group_used_count": 2, "rope.scaling.type": "yarn",
                   "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
                   "rope.scaling.yarn_log_multiplier": 0.1}),
    "gpt-oss": ("GptOss", {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
                           "intermediate_size": 64, "rope_parameters": {**YARN, "truncate": False}}, "gpt-oss",
                {"attention.sliding_window": 8, "expert_count": 4, "expert_feed_forward_length": 64,
                 "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}),
    "nemotron_h": ("NemotronH", {**NEMOTRON, "hybrid_override_pattern": "M-*M", "num_hidden_layers": 4}, "nemotron_h",
                   {}),
    "nemotron_h_moe": ("NemotronH", {**NEMOTRON, **MOE, "hybrid_override_pattern": "ME*E", "num_hidden_layers": 4,
                                     "n_routed_experts": 8, "moe_shared_expert_intermediate_size": 48, "n_group": 1,
                                     "topk_group": 1, "routed_scaling_factor": 2.5}, "nemotron_h_moe",
                       {"expert_count": 8, "expert_shared_feed_forward_length": 48, "expert_shared_count": 1,
                        "expert_weights_norm": True, "expert_weights_scale": 2.5}),
}


def reference(kind: str, settings: dict):
    """(model, logits) of transformers on random weights, norms and biases random too."""
    torch.manual_seed(0)  # for what keeps its first values in part
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **settings})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=chance)
            p.copy_(noise * 0.25 if p.ndim > 1 else noise.abs() if name.endswith("A_log") else p + noise * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=chance) * 0.1)
        return model, model(torch.from_numpy(prompt())).logits.numpy()


def prompt() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 96, (1, 24))


def common(c, architecture: str) -> dict:
    """The metadata that every architecture has."""
    out = {"block_count": c.num_hidden_layers, "context_length": c.max_position_embeddings,
           "embedding_length": c.hidden_size,
           "feed_forward_length": c.intermediate_size, "attention.head_count": c.num_attention_heads,
           "attention.head_count_kv": c.num_key_value_heads,
           "attention.layer_norm_rms_epsilon": float(getattr(c, "rms_norm_eps", None) or c.layer_norm_epsilon)}
    if architecture.startswith("nemotron_h"):
        attends = [letter == "*" for letter in NEMOTRON_PATTERN[architecture]]
        out["attention.head_count_kv"] = [c.num_key_value_heads * a for a in attends]
        out |= {"ssm.conv_kernel": 4, "ssm.state_size": 16, "ssm.group_count": 2, "ssm.inner_size": 128,
                "ssm.time_step_rank": 8}
    elif architecture != "gemma3":
        out["rope.freq_base"] = float(c.rope_parameters["rope_theta"])
    if architecture != "deepseek2":
        out |= {"attention.key_length": c.head_dim, "attention.value_length": c.head_dim} if getattr(c, "head_dim",
                                                                                                     None) else {}
    if hasattr(c, "num_experts_per_tok") and architecture not in ("nemotron_h",):
        out |= {"expert_used_count": c.num_experts_per_tok}
        out |= {"expert_feed_forward_length": getattr(c, "moe_intermediate_size", c.intermediate_size)}
    if architecture in ("glm4moe", "deepseek2"):
        out |= {"expert_count": 8, "expert_shared_count": c.n_shared_experts, "expert_weights_scale": 1.5,
                "expert_gating_func": 2,
                "expert_weights_norm": True, "leading_dense_block_count": 1}
    return out


NEMOTRON_PATTERN = {"nemotron_h": "M-*M", "nemotron_h_moe": "ME*E"}


def make(tmp_path, name, change=lambda n, v: v):
    """(path of the GGUF, transformers' logits); ``change`` may quantize a tensor."""
    kind, settings, architecture, own = CASES[name]
    model, logits = reference(kind, settings)
    state = {n: v.detach().numpy() for n, v in model.state_dict().items()}
    tensors = converted(state, architecture, model.config)
    if settings.get("rope_parameters") is LLAMA3:
        tensors["rope_freqs.weight"] = llama3_divisors()
    metadata = {**common(model.config, architecture), **tokenizer(), **own}
    return write(tmp_path / "m.gguf", architecture, metadata, {n: change(n, v) for n, v in tensors.items()}), logits


def llama3_divisors() -> np.ndarray:
    """Llama 3.1's scaling, frequency by frequency, from its definition."""
    out = []
    for i in range(8):
        wavelength = 2 * np.pi * 5e5 ** (2 * i / 16)
        if wavelength < 8192 / 4:
            out.append(1.0)
        elif wavelength > 8192:
            out.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / 3
            out.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(out, np.float32)


def logits_of(model) -> np.ndarray:
    return np.array(model(mx.array(prompt().astype(np.int32)), cache=model.make_cache()).astype(mx.float32))


def close(got, wanted, bound=1e-4):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= bound * wanted.std()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_transformers(tmp_path, name):
    path, wanted = make(tmp_path, name)
    close(logits_of(load_model(path)), wanted)


def quantized(kind):
    """Matrices in ``kind`` where the layers can be: routers, convolutions and the like stay as they are."""
    def change(name, value):
        plain = value.ndim < 2 or value.shape[-1] % 32 or "ffn_gate_inp" in name or "ssm_" in name
        if plain or "rope_" in name or (kind == "MXFP4" and "_exps" not in name):  # as gpt-oss has it
            return value
        return quants.quantize(value, gguf.GGMLQuantizationType[kind]), gguf.GGMLQuantizationType[kind]
    return change


@pytest.mark.parametrize("name, kind", [
    ("llama", "Q4_1"), ("llama tied, llama3 rope", "Q5_0"), ("qwen3moe", "Q8_0"), ("gemma3", "Q4_0"),
    ("deepseek2", "Q5_1"),
    ("gpt-oss", "MXFP4"), ("nemotron_h_moe", "Q8_0"), ("glm4moe", "Q4_1"),
])
def test_quantized_weights_give_the_logits_of_their_values(tmp_path, name, kind):
    number = gguf.GGMLQuantizationType[kind]

    def values(tensor, value):
        changed = quantized(kind)(tensor, value)
        return quants.dequantize(changed[0], number) if isinstance(changed, tuple) else value

    plain = logits_of(load_model(make(tmp_path, name, values)[0]))
    path, _ = make(tmp_path, name, quantized(kind))
    assert open_gguf(path).config["quantization"]["mode"] == ("mxfp4" if kind == "MXFP4" else "affine")
    close(logits_of(load_model(path)), plain, 2e-4)


def test_rope_of_llama_3_is_found_again(tmp_path):
    scaling = open_gguf(make(tmp_path, "llama tied, llama3 rope")[0]).config["rope_scaling"]
    assert scaling == {k: v for k, v in LLAMA3.items() if k != "rope_theta"}


def test_divisors_that_are_nobodys_formula_are_kept(tmp_path):
    metadata, tensors = llama()
    path = write(tmp_path / "a.gguf", "llama", {**metadata, **tokenizer()}, tensors)
    plain = logits_small(load_model(path))
    tensors["rope_freqs.weight"] = np.array([1, 2, 1, 3, 1, 1, 5, 1], np.float32)
    path = write(tmp_path / "b.gguf", "llama", {**metadata, **tokenizer()}, tensors)
    assert open_gguf(path).config["rope_scaling"]["long_factor"] == [1, 2, 1, 3, 1, 1, 5, 1]
    assert np.abs(logits_small(load_model(path)) - plain).max() > 1e-3
    tensors["rope_freqs.weight"] = np.ones(8, np.float32)
    path = write(tmp_path / "c.gguf", "llama", {**metadata, **tokenizer()}, tensors)
    np.testing.assert_allclose(logits_small(load_model(path)), plain)


def logits_small(model):
    return np.array(model(mx.arange(12)[None], cache=model.make_cache()))


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_files_of_half_precision(tmp_path, kind):
    metadata, tensors = llama()
    number = gguf.GGMLQuantizationType[kind]
    halves = {n: (quants.quantize(v, number), number) if v.ndim > 1 else v for n, v in tensors.items()}
    values = {n: quants.dequantize(h[0], number).reshape(tensors[n].shape) if isinstance(h, tuple) else h
              for n, h in halves.items()}
    model = load_model(write(tmp_path / "half.gguf", "llama", {**metadata, **tokenizer()}, halves))
    exact = load_model(write(tmp_path / "wide.gguf", "llama", {**metadata, **tokenizer()}, values))
    dtype = {"F16": mx.float16, "BF16": mx.bfloat16}[kind]
    assert model.model.layers[0].self_attn.q_proj.weight.dtype == dtype
    # Norms of a bfloat16 file are bfloat16, as in the checkpoint it was made from; of a float16 file as they are.
    assert model.model.norm.weight.dtype == (mx.bfloat16 if kind == "BF16" else mx.float32)
    weight = model.model.layers[0].self_attn.k_proj.weight.astype(mx.float32)
    np.testing.assert_array_equal(np.array(weight), np.array(exact.model.layers[0].self_attn.k_proj.weight))


def test_fused_projections_are_cut(tmp_path):
    metadata, tensors = llama()
    metadata["attention.key_length"] = metadata["attention.value_length"] = 16
    whole = write(tmp_path / "a.gguf", "qwen2", {**metadata, **tokenizer()}, with_bias(tensors))
    parts = with_bias(tensors)
    for kind in ("weight", "bias"):
        parts[f"blk.0.attn_qkv.{kind}"] = np.concatenate([parts.pop(f"blk.0.attn_{x}.{kind}") for x in "qkv"])
    change = quantized("Q8_0")
    fused = write(tmp_path / "b.gguf", "qwen2", {**metadata, **tokenizer()}, parts)
    np.testing.assert_array_equal(logits_small(load_model(fused)), logits_small(load_model(whole)))
    fused = write(tmp_path / "c.gguf", "qwen2", {**metadata, **tokenizer()},
                  {n: change(n, v) for n, v in parts.items()})
    whole = write(tmp_path / "d.gguf", "qwen2", {**metadata, **tokenizer()},
                  {n: change(n, v) for n, v in with_bias(tensors).items()})
    np.testing.assert_array_equal(logits_small(load_model(fused)), logits_small(load_model(whole)))


def with_bias(tensors):
    rows = {"q": 64, "k": 32, "v": 32}
    return {**tensors, **{f"blk.0.attn_{x}.bias": np.linspace(-1, 1, n).astype(np.float32) for x, n in rows.items()}}


def test_layers_that_predict_ahead_are_left_out(tmp_path):
    metadata, tensors = llama(layers=2)
    path = write(tmp_path / "m.gguf", "llama", {**metadata, "nextn_predict_layers": 1, **tokenizer()}, tensors)
    assert len(load_model(path).layers) == 1


def test_the_scales_dtype_can_be_chosen(tmp_path):
    metadata, tensors = llama()
    path = write(tmp_path / "m.gguf", "llama", {**metadata, **tokenizer()},
                 {n: quantized("Q8_0")(n, v) for n, v in tensors.items()})
    for dtype in ("float32", "float16", "bfloat16"):
        weights = open_gguf(path, scale_dtype=dtype).load_weights()
        assert weights["model.embed_tokens.scales"].dtype == weights["model.embed_tokens.biases"].dtype == getattr(mx,
                                                                                                                   dtype)


@pytest.mark.parametrize("metadata, words", [
    ({"attention.clamp_kqv": 8.0}, ["attention.clamp_kqv", "honours"]),
    ({"attention.causal": False}, ["attention.causal"]),
    ({"rope.scaling.type": "fancy"}, ["rope.scaling.type", "fancy"]),
    ({"rope.dimension_count": 8}, ["rope.dimension_count", "8"]),
    ({"expert_gating_func": 2}, ["expert_gating_func"]),
    ({"block_count": "two"}, ["block_count", "two"]),
    ({"attention.value_length": 32}, ["attention.value_length"]),
    ({"general.type": "adapter"}, ["adapter"]),
])
def test_metadata_that_cannot_be_honoured_is_an_error(tmp_path, metadata, words):
    base, tensors = llama()
    path = write(tmp_path / "m.gguf", "llama", {**base, **tokenizer(), **metadata}, tensors)
    with pytest.raises(ConfigError) as e:
        open_gguf(path)
    assert all(word in str(e.value) for word in words), str(e.value)


@pytest.mark.parametrize("gone", ["embedding_length", "block_count", "attention.head_count", "feed_forward_length",
                                  "attention.layer_norm_rms_epsilon"])
def test_metadata_that_is_missing_is_named(tmp_path, gone):
    base, tensors = llama()
    del base[gone]
    with pytest.raises(ConfigError, match=gone):
        open_gguf(write(tmp_path / "m.gguf", "llama", {**base, **tokenizer()}, tensors))


def test_other_architectures_and_strange_tensors_are_named(tmp_path):
    base, tensors = llama()
    with pytest.raises(ConfigError, match=r"'bloom'.*gemma3"):
        open_gguf(write(tmp_path / "m.gguf", "bloom", {**base, **tokenizer()}, tensors))
    with pytest.raises(WeightError, match=r"blk\.0\.attn_k_norm\.weight"):
        open_gguf(write(tmp_path / "m.gguf", "llama", {**base, **tokenizer()},
                        {**tensors, "blk.0.attn_k_norm.weight": np.ones(16, np.float32)}))
    del tensors["blk.0.ffn_up.weight"]
    with pytest.raises(WeightError, match=r"layers\.\*\.mlp\.up_proj"):
        load_model(write(tmp_path / "m.gguf", "llama", {**base, **tokenizer()}, tensors))
