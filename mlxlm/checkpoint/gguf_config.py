"""GGUF's metadata to the config.json that the model had, key by key; a key that no one took is an error.

Facts that llama.cpp keeps in its code rather than in the file (Gemma's windows, normalised expert weights …) are
those of the models' own configs.
"""

from typing import Any

import numpy as np

from ..errors import ConfigError, WeightError
from .gguf_keys import Keys
from .gguf_names import TABLES, Reading
from .gguf_rope import rope

GATING_SOFTMAX, GATING_SIGMOID = 1, 2


def common(k: Keys, model_type: str) -> dict[str, Any]:
    """What nearly all say: sizes, context, epsilon, whether the head is tied."""
    heads, hidden = k.get("attention.head_count", object), k.need("embedding_length", int)
    embedding = k.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ConfigError("token_embd.weight is missing or isn't a matrix", where=k.where)
    tokens = k.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > embedding.shape[0]:
        raise ConfigError("the tokenizer has more tokens than token_embd.weight has rows", where=k.where,
                          found=f"{len(tokens)} and {embedding.shape[0]}")
    ahead = k.get("nextn_predict_layers", int, 0)
    head_dim = k.get("attention.key_length", int)
    out = {
        "model_type": model_type, "hidden_size": hidden, "vocab_size": embedding.shape[0],
        "num_hidden_layers": k.need("block_count", int) - ahead, "num_attention_heads": heads,
        "max_position_embeddings": k.get("context_length", int, 2048),
        "rms_norm_eps": epsilon(k),
        "tie_word_embeddings": not k.has("output.weight"), "head_dim": head_dim,
    }
    if out["num_hidden_layers"] < 1:
        raise ConfigError("block_count can't be right", where=k.where, found=out["num_hidden_layers"])
    if k.architecture not in OWN_VALUES:
        wide = hidden // max(heads if isinstance(heads, int) else 1, 1)
        k.only("attention.value_length", int, head_dim or wide)
    return out


OWN_VALUES = ("deepseek2", "deepseek32", "mimo2", "minicpm3", "gemma4")  # whose values are as wide as they say


def epsilon(k: Keys) -> float:
    """The norms' epsilon, under whichever of its two names."""
    if (plain := k.get("attention.layer_norm_epsilon", float)) is not None:
        return k.get("attention.layer_norm_rms_epsilon", float, plain)
    return k.need("attention.layer_norm_rms_epsilon", float)


def dense(
    k: Keys, out: dict[str, Any], *, partial: bool = False, turned: bool = True, kv_heads: int | None = None,
    wide: int | None = None,
) -> None:
    """Heads, the MLP's width and the rope, of which ``partial`` ones turn a part of each head.

    ``kv_heads`` and ``wide`` stand for what the metadata says where layers differ.
    """
    out["num_attention_heads"] = k.need("attention.head_count", int)
    out["intermediate_size"] = k.need("feed_forward_length", int) if wide is None else wide
    if kv_heads is None:
        kv_heads = k.get("attention.head_count_kv", int, out["num_attention_heads"])
    out["num_key_value_heads"] = kv_heads
    if out["num_attention_heads"] < 1:
        raise ConfigError("attention.head_count can't be right", where=k.where, found=out["num_attention_heads"])
    out["head_dim"] = out["head_dim"] or out["hidden_size"] // out["num_attention_heads"]
    if turned:
        rope(k, out, out["head_dim"], partial)


def _llama(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out["attention_bias"], out["mlp_bias"] = k.has("blk.0.attn_q.bias"), k.has("blk.0.ffn_up.bias")
    if experts := k.get("expert_count", int, 0):
        out |= {"model_type": "mixtral", "num_local_experts": experts}
        del out["attention_bias"], out["mlp_bias"]
    if used := k.get("expert_used_count", int, 0):
        out["num_experts_per_tok"] = used if experts else None


def _smollm3(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out["no_rope_layer_interval"] = 4


def qwen3(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out["attention_bias"] = k.has("blk.0.attn_q.bias")


def qwen3_moe(k: Keys, out: dict[str, Any]) -> None:
    qwen3(k, out)
    out |= {"num_experts": k.need("expert_count", int), "num_experts_per_tok": k.need("expert_used_count", int),
            "moe_intermediate_size": k.need("expert_feed_forward_length", int),
            "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    k.only("expert_weights_scale", float, 1.0)


def layer_kinds(k: Keys, out: dict[str, Any], every: int) -> list[str]:
    """Which layers slide: all but each ``every``-th, or as the metadata has it."""
    pattern = k.get("attention.sliding_window_pattern", object)
    layers = out["num_hidden_layers"]
    if isinstance(pattern, np.ndarray) and len(pattern) >= layers:
        slides = [bool(p) for p in pattern[:layers]]
    else:
        every = pattern if isinstance(pattern, int) and pattern > 0 else every
        slides = [bool((i + 1) % every) for i in range(layers)]
    return ["sliding_attention" if s else "full_attention" for s in slides]


def _gemma2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    largest = out["num_hidden_layers"] == 46  # Gemma 2 27B alone scales by another number than the head's size
    out |= {"sliding_window": k.get("attention.sliding_window", int, 4096), "layer_types": layer_kinds(k, out, 2),
            "attn_logit_softcapping": k.get("attn_logit_softcapping", float, 50.0),
            "final_logit_softcapping": k.get("final_logit_softcapping", float, 30.0),
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": out["hidden_size"] // out["num_attention_heads"] if largest else out["head_dim"]}
    k.only("rope.freq_base_swa", float, out["rope_theta"])


def _gemma3(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    largest = out["num_hidden_layers"] == 62  # Gemma 3 27B, as with Gemma 2
    window = k.get("attention.sliding_window", int)
    kinds = layer_kinds(k, out, 6)
    out |= {"sliding_window": window or 0,
            "layer_types": kinds if window else ["full_attention"] * out["num_hidden_layers"],
            "final_logit_softcapping": k.get("final_logit_softcapping", float) or None,
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_local_base_freq": k.get("rope.freq_base_swa", float, 10_000.0),
            "query_pre_attn_scalar": out["hidden_size"] // out["num_attention_heads"] if largest else out["head_dim"]}
    out["rope_theta"] = k.get("rope.freq_base", float, 1_000_000.0)
    k.only("attn_logit_softcapping", float, 0.0)


def grouped(k: Keys, out: dict[str, Any]) -> None:
    """DeepSeek V3's experts, which GLM 4.5 has too."""
    gating = k.get("expert_gating_func", int, None)
    # The bias that balances experts came with the sigmoid, so that it tells in files without the key.
    if gating is None and (k.architecture == "glm4moe" or any(".exp_probs_b" in name for name in k.tensors)):
        gating = GATING_SIGMOID
    if gating not in (None, GATING_SOFTMAX, GATING_SIGMOID):
        raise ConfigError("expert_gating_func can't be honoured", where=k.where, found=gating)
    groups = k.get("expert_group_count", int, 1)
    out |= {"n_routed_experts": k.need("expert_count", int), "num_experts_per_tok": k.need("expert_used_count", int),
            "moe_intermediate_size": k.need("expert_feed_forward_length", int),
            "n_shared_experts": k.get("expert_shared_count", int, 0),
            "n_group": max(groups, 1), "topk_group": max(k.get("expert_group_used_count", int, 1), 1),
            "norm_topk_prob": k.get("expert_weights_norm", bool, False),
            "routed_scaling_factor": k.get("expert_weights_scale", float, 1.0),
            "first_k_dense_replace": k.get("leading_dense_block_count", int, 0),
            "scoring_func": "sigmoid" if gating == GATING_SIGMOID else "softmax", "topk_method": "noaux_tc"}


def _glm4_moe(k: Keys, out: dict[str, Any]) -> None:
    k.need("attention.head_count", int)
    head_dim = out["head_dim"] or out["hidden_size"] // max(out["num_attention_heads"], 1)
    out |= {"intermediate_size": k.need("feed_forward_length", int), "head_dim": head_dim,
            "use_qk_norm": k.has("blk.0.attn_q_norm.weight"),
            "num_key_value_heads": k.need("attention.head_count_kv", int), "attention_bias": k.has("blk.0.attn_q.bias")}
    rope(k, out, head_dim, partial=True)
    grouped(k, out)


def deepseek2(k: Keys, out: dict[str, Any]) -> None:
    k.need("attention.head_count", int)
    turned = k.need("rope.dimension_count", int)
    key, value = (k.get(f"attention.{x}_length_mla", int) or k.get(f"attention.{x}_length", int) or 0
                  for x in ("key", "value"))
    for name in ("key_length", "value_length", "head_count_kv"):  # of the folded form, which says nothing more
        k.get(f"attention.{name}", int)
    rank = k.get("attention.q_lora_rank", int)
    out |= {"intermediate_size": k.need("feed_forward_length", int), "num_key_value_heads": out["num_attention_heads"],
            "head_dim": None, "kv_lora_rank": k.need("attention.kv_lora_rank", int), "qk_rope_head_dim": turned,
            "qk_nope_head_dim": key - turned, "v_head_dim": value}
    if out["qk_nope_head_dim"] < 1 or value < 1:
        raise ConfigError("attention.key_length_mla and value_length_mla can't be right", where=k.where,
                          found=f"{key} and {value}")
    rope(k, out, turned)
    grouped(k, out)
    log_multiplier = k.get("rope.scaling.yarn_log_multiplier", float)
    if log_multiplier and out["rope_scaling"]:
        weight = round(log_multiplier / 0.1, 6)  # stored as 0.1 · mscale_all_dim; every known config has mscale alike
        out["rope_scaling"] |= {"mscale": weight, "mscale_all_dim": weight}
    out["q_lora_rank"] = rank if k.has("blk.0.attn_q_a.weight") else None
    if out["scoring_func"] == "softmax":
        grouped_choice = out["n_group"] > 1
        out |= {"model_type": "deepseek_v2", "absorbed": True, "norm_topk_prob": False,
                "topk_method": "group_limited_greedy" if grouped_choice else "greedy"}


def _gpt_oss(k: Keys, out: dict[str, Any]) -> None:
    k.need("attention.head_count", int)
    k.get("feed_forward_length", int)
    head_dim = out["head_dim"] or 64
    out |= {"num_key_value_heads": k.need("attention.head_count_kv", int), "head_dim": head_dim, "attention_bias": True,
            "num_local_experts": k.need("expert_count", int), "num_experts_per_tok": k.need("expert_used_count", int),
            "intermediate_size": k.need("expert_feed_forward_length", int), "layer_types": layer_kinds(k, out, 2),
            "sliding_window": k.need("attention.sliding_window", int), "swiglu_limit": 7.0}
    rope(k, out, head_dim)
    k.only("rope.freq_base_swa", float, out["rope_theta"])
    if out["rope_scaling"]:
        out["rope_scaling"]["truncate"] = False  # as in the model's own config.json; the metadata has no key for it


# Tensors that only one kind of layer has.
MIXERS = {"ssm_in": "M", "attn_q": "*", "attn_qkv": "*", "ffn_gate_inp": "E", "ffn_up": "-"}


def _pattern(k: Keys, layers: int) -> str:
    """Nemotron-H's pattern, a letter for each layer."""
    letters = [next((c for name, c in MIXERS.items() if k.has(f"blk.{i}.{name}.weight")), None) for i in range(layers)]
    if None in letters:
        raise WeightError("a layer has no mixer", where=k.where, found=f"layer {letters.index(None)} of {layers}")
    return "".join(c for c in letters if c)


def _nemotron_h(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    kv = k.per_layer("attention.head_count_kv", layers)
    k.get("feed_forward_length", object)  # some converters leave the dense layers of a model with experts out of it
    pattern = _pattern(k, layers)
    heads = k.per_layer("attention.head_count", layers)
    mamba_heads, inner = k.need("ssm.time_step_rank", int), k.need("ssm.inner_size", int)
    if mamba_heads < 1 or inner % mamba_heads:
        raise ConfigError("ssm.inner_size isn't a multiple of ssm.time_step_rank", where=k.where,
                          found=f"{inner} and {mamba_heads}")
    first = {kind: pattern.index(kind) for kind in set(pattern)}

    def biased(kind: str, name: str) -> bool:
        return kind in first and k.has(f"blk.{first[kind]}.{name}.bias")

    out |= {
        "hybrid_override_pattern": pattern, "num_attention_heads": max(heads), "num_key_value_heads": max(kv) or None,
        "intermediate_size": k.tensors[f"blk.{first['-']}.ffn_up.weight"].shape[0] if "-" in first else 0,
        "layer_norm_epsilon": out.pop("rms_norm_eps"), "mamba_num_heads": mamba_heads,
        "mamba_head_dim": inner // mamba_heads,
        "ssm_state_size": k.need("ssm.state_size", int), "conv_kernel": k.need("ssm.conv_kernel", int),
        "n_groups": k.need("ssm.group_count", int), "use_conv_bias": biased("M", "ssm_conv1d"),
        "mamba_proj_bias": biased("M", "ssm_in"),
        "attention_bias": biased("*", "attn_q"), "mlp_bias": biased("-", "ffn_up"), "mlp_hidden_act": "relu2",
    }
    for unused in ("rope.dimension_count", "rope.freq_base", "rope.scaling.type", "attention.scale"):
        k.get(unused, object)
    if k.architecture == "nemotron_h_moe":
        out |= {"n_routed_experts": k.need("expert_count", int),
                "num_experts_per_tok": k.need("expert_used_count", int),
                "moe_intermediate_size": k.need("expert_feed_forward_length", int),
                "n_shared_experts": k.get("expert_shared_count", int, 0),
                "moe_shared_expert_intermediate_size": k.get("expert_shared_feed_forward_length", int, 0),
                "moe_latent_size": k.get("moe_latent_size", int) or None,
                "n_group": max(k.get("expert_group_count", int, 1), 1),
                "topk_group": max(k.get("expert_group_used_count", int, 1), 1),
                "norm_topk_prob": k.get("expert_weights_norm", bool, False),
                "routed_scaling_factor": k.get("expert_weights_scale", float, 1.0)}
        k.only("expert_gating_func", int, GATING_SIGMOID)


def special_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    """bos_token_id and the like, which the rules for the end of a text read."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{stem}_token_id") for name, stem in names.items()}
    return {name: i for name, i in ids.items() if isinstance(i, int)}


FIRST: dict[str, Reading] = {
    name: Reading(model_type, TABLES[name], read) for name, model_type, read in (
        ("llama", "llama", _llama), ("smollm3", "smollm3", _smollm3), ("qwen2", "qwen2", dense),
        ("qwen3", "qwen3", qwen3), ("qwen3moe", "qwen3_moe", qwen3_moe), ("gemma2", "gemma2", _gemma2),
        ("gemma3", "gemma3_text", _gemma3), ("glm4moe", "glm4_moe", _glm4_moe),
        ("deepseek2", "deepseek_v3", deepseek2), ("nemotron_h", "nemotron_h", _nemotron_h),
        ("nemotron_h_moe", "nemotron_h", _nemotron_h), ("gpt-oss", "gpt_oss", _gpt_oss),
    )
}
