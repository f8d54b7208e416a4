"""GGUF's architectures that resemble no other: Gemma 3n, Gemma 4 and MiniCPM 3."""

from statistics import NormalDist
from typing import Any

from .gguf_config import dense, layer_kinds
from .gguf_keys import Keys
from .gguf_names import HEAD_NORMS, LLAMA, QWEN2, Reading, To, attention, experts
from .gguf_rope import rope

INPUTS = {
    "per_layer_token_embd": To("model.embed_tokens_per_layer"),
    "per_layer_model_proj": To("model.per_layer_model_projection"),
    "per_layer_proj_norm": To("model.per_layer_projection_norm", "vector"),
    "inp_gate": To("per_layer_input_gate"), "proj": To("per_layer_projection"),
    "post_norm": To("post_per_layer_input_norm", "vector"),
}
SANDWICH = {
    **QWEN2, **HEAD_NORMS, "post_attention_norm": To("post_attention_layernorm", "vector"),
    "ffn_norm": To("pre_feedforward_layernorm", "vector"), "post_ffw_norm": To("post_feedforward_layernorm", "vector"),
}
GEMMA3N = {
    **SANDWICH, **INPUTS, "altup_proj": To("model.altup_projections", "stack"),
    "altup_unembd_proj": To("model.altup_unembed_projections", "stack"),
    "altup_correct_coef": To("altup.correction_coefs", "numbers"),
    "altup_correct_scale": To("altup.correct_output_scale", "value"),
    "altup_predict_coef": To("altup.prediction_coefs", "numbers"),
    "altup_router": To("altup.modality_router", "numbers"), "altup_router_norm": To("altup.router_norm", "vector"),
    "laurel_l": To("laurel.linear_left"), "laurel_r": To("laurel.linear_right"),
    "laurel_post_norm": To("laurel.post_laurel_norm", "vector"),
}
GEMMA4 = {
    **SANDWICH, **INPUTS, **experts("experts.switch_glu"), "layer_output_scale": To("layer_scalar", "scalar"),
    "ffn_gate_inp": To("router.proj", "numbers"), "ffn_gate_inp.scale": To("router.scale", "value"),
    "ffn_down_exps.scale": To("router.per_expert_scale", "value"),
    "pre_ffw_norm_2": To("pre_feedforward_layernorm_2", "vector"),
    "post_ffw_norm_1": To("post_feedforward_layernorm_1", "vector"),
    "post_ffw_norm_2": To("post_feedforward_layernorm_2", "vector"),
}
MINICPM3 = {
    **{name: to for name, to in LLAMA.items() if name not in attention("")}, "attn_output": To("self_attn.o_proj"),
    "attn_q": To("self_attn.q_proj"), "attn_q_a": To("self_attn.q_a_proj"), "attn_q_b": To("self_attn.q_b_proj"),
    "attn_q_a_norm": To("self_attn.q_a_layernorm", "vector"), "attn_kv_a_mqa": To("self_attn.kv_a_proj_with_mqa"),
    "attn_kv_a_norm": To("self_attn.kv_a_layernorm", "vector"), "attn_kv_b": To("self_attn.kv_b_proj"),
}


def gemma3n(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    widths = k.per_layer("feed_forward_length", layers)
    dense(k, out, wide=max(widths))
    cuts = k.per_layer("activation_sparsity_scale", layers, "fiu")
    kinds = layer_kinds(k, out, 5)
    shared_words(k, out)
    out |= {"model_type": "gemma3n_text", "layer_types": kinds, "intermediate_size": widths,
            "sliding_window": k.need("attention.sliding_window", int),
            # A layer that keeps everything has a cut of minus infinity.
            "activation_sparsity_pattern": [NormalDist().cdf(c) if c > -1e30 else 0.0 for c in cuts],
            "altup_active_idx": k.get("altup.active_idx", int, 0),
            "altup_num_inputs": k.get("altup.num_inputs", int, 4),
            "vocab_size_per_layer_input": k.tensors["per_layer_token_embd.weight"].shape[0],
            "laurel_rank": k.tensors["blk.0.laurel_l.weight"].shape[0],
            "rope_local_base_freq": k.get("rope.freq_base_swa", float, 10_000.0),
            "final_logit_softcapping": k.get("final_logit_softcapping", float, 30.0) or None}
    out["rope_theta"] = k.get("rope.freq_base", float, 1_000_000.0)


def shared_words(k: Keys, out: dict[str, Any]) -> None:
    """What both Gemmas with inputs for each layer say."""
    out |= {"hidden_activation": "gelu_pytorch_tanh",
            "hidden_size_per_layer_input": k.get("embedding_length_per_layer_input", int, 0),
            "num_kv_shared_layers": k.get("attention.shared_kv_layers", int, 0)}


def gemma4(k: Keys, out: dict[str, Any]) -> None:
    layers, kinds = out["num_hidden_layers"], layer_kinds(k, out, 6)
    heads, widths = k.per_layer("attention.head_count_kv", layers), k.per_layer("feed_forward_length", layers)
    near = [h for h, kind in zip(heads, kinds, strict=True) if kind == "sliding_attention"] or heads
    far = [h for h, kind in zip(heads, kinds, strict=True) if kind == "full_attention"] or heads
    full, small = out["head_dim"], k.get("attention.key_length_swa", int) or out["head_dim"]
    k.tensors = {n: t for n, t in k.tensors.items() if n != "rope_freqs.weight"}  # says which dims don't turn
    dense(k, out, wide=widths[0], kv_heads=near[0])
    for key in ("attention.value_length", "attention.value_length_swa", "rope.dimension_count_swa"):
        k.get(key, int)
    shared_words(k, out)
    base = k.get("rope.freq_base_swa", float, 10_000.0)
    out |= {"head_dim": small, "global_head_dim": full, "num_global_key_value_heads": far[0], "layer_types": kinds,
            "sliding_window": k.need("attention.sliding_window", int), "use_double_wide_mlp": widths[-1] > widths[0],
            "attention_k_eq_v": not any(k.has(f"blk.{i}.attn_v.weight") for i in range(layers)
                                        if kinds[i] == "full_attention"),
            "final_logit_softcapping": k.get("final_logit_softcapping", float) or None,
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25,
                                   "rope_theta": k.get("rope.freq_base", float, 1_000_000.0)},
                "sliding_attention": {"rope_type": "default", "rope_theta": base}}}
    if far[0] != near[0] and not out["attention_k_eq_v"]:
        out["per_layer_config"] = {str(i): {"head_dim": full, "num_key_value_heads": heads[i]}
                                   for i in range(layers) if kinds[i] == "full_attention"}
    for key in ("rope_theta", "rope_scaling"):
        out.pop(key)
    if table := k.tensors.get("per_layer_token_embd.weight"):
        out["vocab_size_per_layer_input"] = table.shape[0]
    if count := k.get("expert_count", int, 0):
        out |= {"enable_moe_block": True, "num_experts": count, "top_k_experts": k.need("expert_used_count", int),
                "moe_intermediate_size": k.need("expert_feed_forward_length", int)}
    k.get("expert_used_count", int)
    k.get("expert_feed_forward_length", int)


def minicpm3(k: Keys, out: dict[str, Any]) -> None:
    turned, heads = k.need("rope.dimension_count", int), k.need("attention.head_count", int)
    key, output = out["head_dim"] or 0, k.tensors.get("blk.0.attn_output.weight")
    k.get("attention.value_length", int)
    k.get("attention.head_count_kv", int)
    rope(k, out, turned)
    out |= {"q_lora_rank": k.get("attention.q_lora_rank", int), "kv_lora_rank": k.need("attention.kv_lora_rank", int),
            "qk_rope_head_dim": turned, "qk_nope_head_dim": key - turned, "head_dim": None,
            "intermediate_size": k.need("feed_forward_length", int), "num_key_value_heads": heads,
            "v_head_dim": output.shape[-1] // max(heads, 1) if output and len(output.shape) == 2 else 0,
            # Facts that llama.cpp keeps in its code
            "scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 256}


OWN: dict[str, Reading] = {
    "gemma3n": Reading("gemma3n_text", GEMMA3N, gemma3n),
    "gemma4": Reading("gemma4_text", GEMMA4, gemma4),
    "minicpm3": Reading("minicpm3", MINICPM3, minicpm3),
}
