"""GGUF's architectures with experts beyond the first ones: tensors' places and how the metadata is read."""

from typing import Any

from .gguf_config import GATING_SIGMOID, deepseek2, dense, grouped, layer_kinds
from .gguf_dense import scales
from .gguf_keys import Keys
from .gguf_names import GROUPED, HEAD_NORMS, LLAMA, QWEN2, TABLES, Reading, To, experts, mlp

ROUTED = {"ffn_gate_inp": To("mlp.gate", "numbers"), **experts("mlp.switch_mlp")}
GATE_BIAS = {"exp_probs_b": To("mlp.e_score_correction_bias", "flat")}
SHARED = mlp("mlp.shared_experts", "_shexp")


def sized(k: Keys, out: dict[str, Any], count: str = "num_experts", wide: str = "moe_intermediate_size") -> None:
    """How many experts there are, how many speak, how wide they are."""
    out[count] = k.need("expert_count", int)
    out["num_experts_per_tok"] = k.need("expert_used_count", int)
    out[wide] = k.get("expert_feed_forward_length", int) or out["intermediate_size"]


def qwen2_moe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    sized(k, out)
    out |= {"shared_expert_intermediate_size": k.get("expert_shared_feed_forward_length", int, 0),
            "qkv_bias": k.has("blk.0.attn_q.bias"), "norm_topk_prob": k.get("expert_weights_norm", bool, False),
            "decoder_sparse_step": 1, "mlp_only_layers": []}


def deepseek32(k: Keys, out: dict[str, Any]) -> None:
    """DeepSeek V3 with an indexer in every layer."""
    deepseek2(k, out)
    out |= {"index_n_heads": k.need("attention.indexer.head_count", int), "scoring_func": "sigmoid",
            "index_head_dim": k.need("attention.indexer.key_length", int),
            "index_topk": k.need("attention.indexer.top_k", int)}
    k.only("expert_gating_func", int, GATING_SIGMOID)


def dots1(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    grouped(k, out)
    out |= {"scoring_func": "noaux_tc", "attention_bias": k.has("blk.0.attn_q.bias"), "sliding_window": None}


def granite_moe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    scales(k, out)
    sized(k, out, "num_local_experts", "intermediate_size")
    out["attention_bias"] = k.has("blk.0.attn_q.bias")


def phi_moe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    sized(k, out, "num_local_experts", "intermediate_size")
    out |= {"attention_bias": k.has("blk.0.attn_q.bias"), "lm_head_bias": k.has("output.bias"),
            "sliding_window": k.get("attention.sliding_window", int, 0) or None}


def olmoe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    sized(k, out, wide="intermediate_size")
    out |= {"clip_qkv": k.get("attention.clamp_kqv", float),
            "norm_topk_prob": k.get("expert_weights_norm", bool, False),
            "attention_bias": k.has("blk.0.attn_q.bias")}


def ernie_moe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    sized(k, out, "moe_num_experts")
    out |= {"moe_k": out.pop("num_experts_per_tok"), "moe_layer_interval": k.get("interleave_moe_layer_step", int, 1),
            "moe_layer_start_index": k.get("leading_dense_block_count", int, 0),
            "moe_num_shared_experts": k.get("expert_shared_count", int, 0)}
    k.get("expert_shared_feed_forward_length", int)  # some converters write another model's number here


def bailing(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=k.architecture == "bailingmoe2")
    sized(k, out)
    second = k.architecture == "bailingmoe2"
    gating = k.get("expert_gating_func", int, GATING_SIGMOID if second else 1)
    out |= {"first_k_dense_replace": k.get("leading_dense_block_count", int, 0),
            "num_shared_experts": k.get("expert_shared_count", int, 0),
            "moe_shared_expert_intermediate_size": shared_width(k, out),
            "norm_topk_prob": k.get("expert_weights_norm", bool, False),
            "routed_scaling_factor": k.get("expert_weights_scale", float, 1.0),
            "score_function": "sigmoid" if gating == GATING_SIGMOID else "softmax",
            "moe_router_enable_expert_bias": any(".exp_probs_b" in name for name in k.tensors),
            "n_group": max(k.get("expert_group_count", int, 1), 1),
            "topk_group": max(k.get("expert_group_used_count", int, 1), 1),
            "use_qk_norm": k.has("blk.0.attn_q_norm.weight"),
            "use_qkv_bias": k.has("blk.0.attn_qkv.bias") or k.has("blk.0.attn_q.bias")}


def shared_width(k: Keys, out: dict[str, Any]) -> int | None:
    """One shared expert's width, where the metadata says it of one or of all."""
    whole, count = k.get("expert_shared_feed_forward_length", int), k.get("expert_shared_count", int, 0)
    tensor = next((t for n, t in k.tensors.items() if n.endswith("ffn_up_shexp.weight")), None)
    if tensor is not None and count and len(tensor.shape) == 2:
        return tensor.shape[0] // count
    return whole


def minimax_m2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=True)
    sized(k, out, "num_local_experts", "intermediate_size")
    k.only("expert_gating_func", int, GATING_SIGMOID)
    out["use_qk_norm"] = k.has("blk.0.attn_q_norm.weight")


def afmoe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    sized(k, out)
    k.only("expert_gating_func", int, GATING_SIGMOID)
    k.only("expert_weights_norm", bool, True)
    window = k.get("attention.sliding_window", int)
    out |= {"num_shared_experts": k.get("expert_shared_count", int, 0),
            "num_dense_layers": k.get("leading_dense_block_count", int, 0),
            "route_scale": k.get("expert_weights_scale", float, 1.0), "sliding_window": window, "mup_enabled": True,
            "attention_bias": k.has("blk.0.attn_q.bias"),
            "layer_types": layer_kinds(k, out, 4) if window else ["full_attention"] * out["num_hidden_layers"]}


def exaone_moe(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    grouped(k, out)
    window = k.get("attention.sliding_window", int)
    k.get("expert_shared_feed_forward_length", int)
    out |= {"sliding_window": window, "sliding_window_pattern": None, "scoring_func": "sigmoid",
            "layer_types": layer_kinds(k, out, 4) if window else ["full_attention"] * out["num_hidden_layers"]}


def mimo2(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    kinds = layer_kinds(k, out, 6)
    heads = k.per_layer("attention.head_count_kv", layers)
    near = [h for h, kind in zip(heads, kinds, strict=True) if kind == "sliding_attention"]
    far = [h for h, kind in zip(heads, kinds, strict=True) if kind != "sliding_attention"]
    dense(k, out, partial=True, kv_heads=(far or near)[0])
    grouped(k, out)
    base = k.get("rope.freq_base_swa", float, 10_000.0)
    turned = {"rope_theta": out.pop("rope_theta"), "partial_rotary_factor": out.pop("partial_rotary_factor")}
    out.pop("rope_scaling")
    out |= {"rope_parameters": {"full_attention": turned, "sliding_attention": {**turned, "rope_theta": base}},
            "v_head_dim": k.need("attention.value_length", int),
            "sliding_window": k.need("attention.sliding_window", int),
            "swa_num_key_value_heads": (near or far)[0], "layer_types": kinds, "scoring_func": "sigmoid",
            "attention_value_scale": k.get("attention.value_scale", float),
            "add_swa_attention_sink_bias": sinks(k, kinds, "sliding_attention"),
            "add_full_attention_sink_bias": sinks(k, kinds, "full_attention"),
            "moe_layer_freq": [int(k.has(f"blk.{i}.ffn_gate_inp.weight")) for i in range(layers)],
            "attention_bias": k.has("blk.0.attn_q.bias")}
    del out["first_k_dense_replace"]


def sinks(k: Keys, kinds: list[str], kind: str) -> bool:
    return any(k.has(f"blk.{i}.attn_sinks.weight") for i, own in enumerate(kinds) if own == kind)


def llama4(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    wide = out["intermediate_size"]
    sized(k, out, "num_local_experts", "intermediate_size")
    layers, own = out["num_hidden_layers"], [int((i + 1) % 4 != 0) for i in range(out["num_hidden_layers"])]
    sparse = [i for i in range(layers) if k.has(f"blk.{i}.ffn_gate_inp.weight")]
    for key in ("interleave_moe_layer_step", "leading_dense_block_count", "expert_shared_count",
                "attention.sliding_window"):
        k.get(key, int)
    out |= {"intermediate_size_mlp": wide, "moe_layers": sparse, "no_rope_layers": own,
            "use_qk_norm": out["num_local_experts"] != 128, "attention_bias": k.has("blk.0.attn_q.bias"),
            "attention_chunk_size": k.get("attention.chunk_size", int, 8192)}


FEED = {"ffn_gate_inp": To("feed_forward.router", "numbers"), **experts("feed_forward.experts"),
        **mlp("feed_forward.shared_expert", "_shexp"), **mlp("feed_forward")}
MIMO2 = {**QWEN2, **GROUPED, "attn_sinks": To("self_attn.sinks", "value")}
BLOCK = {"ffn_gate_inp": To("block_sparse_moe.gate", "numbers"), **experts("block_sparse_moe.switch_mlp")}
BAILING = {
    **{name: To(to.path.replace("self_attn", "attention"), to.kind) for name, to in LLAMA.items()},
    "token_embd": To("model.word_embeddings"), "ffn_gate_inp": To("mlp.gate.gate_proj", "numbers"),
    "exp_probs_b": To("mlp.gate.expert_bias", "value"), **experts("mlp.switch_mlp"), **SHARED,
    "attn_q_norm": To("attention.q_norm", "vector"), "attn_k_norm": To("attention.k_norm", "vector"),
}
AFMOE = {
    **QWEN2, **HEAD_NORMS, "attn_gate": To("self_attn.gate_proj"), "ffn_gate_inp": To("mlp.router.gate", "numbers"),
    "exp_probs_b": To("mlp.expert_bias", "value"), **experts("mlp.experts"), **SHARED,
    "post_attention_norm": To("post_attention_layernorm", "vector"), "ffn_norm": To("pre_mlp_layernorm", "vector"),
    "post_ffw_norm": To("post_mlp_layernorm", "vector"),
}
QWEN2_MOE = {**QWEN2, **ROUTED, **mlp("mlp.shared_expert", "_shexp"),
             "ffn_gate_inp_shexp": To("mlp.shared_expert_gate.weight", "row")}
INDEXER = {
    "indexer.attn_q_b": To("self_attn.indexer.wq_b"), "indexer.attn_k": To("self_attn.indexer.wk"),
    "indexer.k_norm": To("self_attn.indexer.k_norm", "vector"),
    "indexer.proj": To("self_attn.indexer.weights_proj"),
}
SPARSE: dict[str, Reading] = {
    "deepseek32": Reading("deepseek_v32", {**TABLES["deepseek2"], **INDEXER}, deepseek32),
    "qwen2moe": Reading("qwen2_moe", QWEN2_MOE, qwen2_moe),
    "dots1": Reading("dots1", {**QWEN2, **HEAD_NORMS, **GROUPED}, dots1),
    "granitemoe": Reading("granitemoe", {**LLAMA, **ROUTED}, granite_moe),
    "phimoe": Reading("phimoe", {**QWEN2, **ROUTED}, phi_moe),
    "olmoe": Reading("olmoe", {**QWEN2, **HEAD_NORMS, **ROUTED}, olmoe),
    "ernie4_5-moe": Reading("ernie4_5_moe", {**QWEN2, **ROUTED, **GATE_BIAS, **SHARED}, ernie_moe),
    "bailingmoe": Reading("bailing_moe", BAILING, bailing),
    "bailingmoe2": Reading("bailing_moe", {
        **BAILING, **{f"attn_{x}": To(f"attention.{x}_proj") for x in "qk"}}, bailing),
    "minimax-m2": Reading("minimax_m2", {
        **QWEN2, **HEAD_NORMS, **BLOCK,
        "exp_probs_b": To("block_sparse_moe.e_score_correction_bias", "value")}, minimax_m2),
    "afmoe": Reading("afmoe", AFMOE, afmoe),
    "exaone-moe": Reading("exaone_moe", {**QWEN2, **HEAD_NORMS, **GROUPED}, exaone_moe),
    "mimo2": Reading("mimo_v2_flash", MIMO2, mimo2),
    "llama4": Reading("llama4_text", {**QWEN2, **FEED}, llama4),
}
