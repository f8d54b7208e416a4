"""GGUF's recurrent and hybrid architectures beyond the first ones: tensors' places and how the metadata is read."""

from typing import Any

from ..errors import ConfigError
from .gguf_config import GATING_SIGMOID, dense
from .gguf_dense import scales
from .gguf_keys import Keys
from .gguf_names import HEAD_NORMS, LLAMA, QWEN2, ROOT, Reading, To, attention, experts, mlp
from .gguf_sparse import QWEN2_MOE, sized


def ssm(at: str, dt_bias: bool) -> dict[str, To]:
    """A Mamba mixer of the second kind (``dt_bias``) or the first."""
    shared = {"ssm_in": To(f"{at}.in_proj"), "ssm_out": To(f"{at}.out_proj"), "ssm_conv1d": To(f"{at}.conv1d", "conv"),
              "ssm_d": To(f"{at}.D", "flat")}
    if dt_bias:
        return {**shared, "ssm_dt": To(f"{at}.dt_bias", "value"), "ssm_a": To(f"{at}.A_log", "a_log"),
                "ssm_norm": To(f"{at}.norm.weight", "flat")}
    return {**shared, "ssm_x": To(f"{at}.x_proj"), "ssm_dt": To(f"{at}.dt_proj"),
            "ssm_a": To(f"{at}.A_log", "a_log_wide"),
            **{f"ssm_{x}_norm": To(f"{at}.{x}_layernorm", "vector") for x in ("dt", "b", "c")}}


def biased(k: Keys, layers: int, name: str) -> bool:
    return any(k.has(f"blk.{i}.{name}.bias") for i in range(layers))


def kv_heads(k: Keys, layers: int) -> list[int]:
    """Key and value heads of each layer; 0 where it has no attention."""
    return k.per_layer("attention.head_count_kv", layers)


def mamba(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    out |= {"state_size": k.need("ssm.state_size", int), "conv_kernel": k.need("ssm.conv_kernel", int),
            "intermediate_size": k.need("ssm.inner_size", int), "time_step_rank": k.need("ssm.time_step_rank", int),
            "use_bias": biased(k, layers, "ssm_in"), "use_conv_bias": biased(k, layers, "ssm_conv1d")}
    if k.get("ssm.dt_b_c_rms", bool, False):
        out["model_type"] = "falcon_mamba"
    bodiless(k, out)


def bodiless(k: Keys, out: dict[str, Any]) -> None:
    """Without what belongs to attention, of which there is none."""
    for key in ("feed_forward_length", "attention.head_count_kv"):
        k.get(key, int)
    for key in ("num_attention_heads", "head_dim"):
        out.pop(key, None)


def mamba2(k: Keys, out: dict[str, Any]) -> None:
    layers, heads = out["num_hidden_layers"], k.need("ssm.time_step_rank", int)
    bodiless(k, out)
    out |= {"num_heads": heads, "head_dim": per_head(k, heads), "state_size": k.need("ssm.state_size", int),
            "conv_kernel": k.need("ssm.conv_kernel", int), "n_groups": k.need("ssm.group_count", int),
            "use_bias": biased(k, layers, "ssm_in"), "use_conv_bias": biased(k, layers, "ssm_conv1d")}


def per_head(k: Keys, heads: int) -> int:
    inner = k.need("ssm.inner_size", int)
    if heads < 1 or inner % heads:
        raise ConfigError("ssm.inner_size isn't a multiple of ssm.time_step_rank", where=k.where,
                          found=f"{inner} and {heads}")
    return inner // heads


def jamba(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    heads = kv_heads(k, layers)
    dense(k, out, turned=False, kv_heads=max(heads) or 1)
    count = k.get("expert_count", int, 0)
    sparse = [i for i in range(layers) if k.has(f"blk.{i}.ffn_gate_inp.weight")]
    period = sparse[1] - sparse[0] if len(sparse) > 1 else layers
    out |= {"layers_block_type": ["attention" if h else "mamba" for h in heads], "num_experts": count if sparse else 1,
            "num_experts_per_tok": k.get("expert_used_count", int, 1) or 1, "expert_layer_period": period,
            "expert_layer_offset": sparse[0] if sparse else 0, "mamba_d_state": k.need("ssm.state_size", int),
            "mamba_d_conv": k.need("ssm.conv_kernel", int),
            "mamba_expand": k.need("ssm.inner_size", int) / out["hidden_size"],
            "mamba_dt_rank": k.need("ssm.time_step_rank", int), "mamba_proj_bias": biased(k, layers, "ssm_in"),
            "mamba_conv_bias": biased(k, layers, "ssm_conv1d")}
    if sparse and sparse != list(range(sparse[0], layers, period)):
        raise ConfigError("experts stand in layers that no period reaches", where=k.where, found=sparse)


def mamba_words(k: Keys, layers: int) -> dict[str, Any]:
    """Mamba 2's sizes under the names that hybrid models' configs have for them."""
    heads = k.need("ssm.time_step_rank", int)
    return {"mamba_n_heads": heads, "mamba_d_head": per_head(k, heads), "mamba_d_state": k.need("ssm.state_size", int),
            "mamba_d_conv": k.need("ssm.conv_kernel", int), "mamba_n_groups": k.need("ssm.group_count", int),
            "mamba_conv_bias": biased(k, layers, "ssm_conv1d"), "mamba_proj_bias": biased(k, layers, "ssm_in")}


def falcon_h1(k: Keys, out: dict[str, Any]) -> None:
    """µP's multipliers are in the weights already; the keys' one too, so that none is left."""
    dense(k, out)
    layers = out["num_hidden_layers"]
    out |= {**mamba_words(k, layers), "mamba_rms_norm": k.has("blk.0.ssm_norm.weight"),
            "attention_bias": k.has("blk.0.attn_q.bias"), "mlp_bias": k.has("blk.0.ffn_up.bias"),
            "projectors_bias": k.has("blk.0.ssm_out.bias")}
    out["mamba_d_ssm"] = out["mamba_n_heads"] * out["mamba_d_head"]


def granite_hybrid(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    heads = kv_heads(k, layers)
    dense(k, out, kv_heads=max(heads) or 1)
    scales(k, out)
    count = k.get("expert_count", int, 0)
    wide = out["intermediate_size"]
    out |= {"layer_types": ["full_attention" if h else "linear_attention" for h in heads],
            **mamba_words(k, layers), "num_local_experts": count,
            "num_experts_per_tok": k.get("expert_used_count", int, 0) or 1,
            "intermediate_size": k.get("expert_feed_forward_length", int) or wide,
            "shared_intermediate_size": k.get("expert_shared_feed_forward_length", int) or wide,
            "position_embedding_type": "rope" if k.get("rope.scaling.finetuned", bool, False) else "nope",
            "attention_bias": biased(k, layers, "attn_q")}


def granite_hybrid_table(k: Keys) -> dict[str, To]:
    shared = {"ffn_gate_shexp": To("shared_mlp.input_linear", "half0"),
              "ffn_up_shexp": To("shared_mlp.input_linear", "half1"),
              "ffn_down_shexp": To("shared_mlp.output_linear")}
    return {**LLAMA, **ssm("mamba", dt_bias=True), **experts("block_sparse_moe.switch_mlp"), **shared,
            "ffn_gate_inp": To("block_sparse_moe.router.layer", "numbers")}


def lfm2(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    heads = kv_heads(k, layers)
    dense(k, out, kv_heads=max(heads) or 1)
    out |= {"layer_types": ["full_attention" if h else "conv" for h in heads],
            "conv_L_cache": k.need("shortconv.l_cache", int), "block_auto_adjust_ff_dim": False,
            "conv_bias": biased(k, layers, "shortconv.conv")}


def lfm2_moe(k: Keys, out: dict[str, Any]) -> None:
    lfm2(k, out)
    sized(k, out)
    k.only("expert_gating_func", int, GATING_SIGMOID)
    out |= {"num_dense_layers": k.get("leading_dense_block_count", int, 0),
            "norm_topk_prob": k.get("expert_weights_norm", bool, True),
            "routed_scaling_factor": k.get("expert_weights_scale", float, 1.0),
            "use_expert_bias": any(".exp_probs_b" in name for name in k.tensors)}


def delta(k: Keys, out: dict[str, Any]) -> None:
    """Gated delta nets with an attention every so often."""
    layers = out["num_hidden_layers"]
    kv = [h for h in kv_heads(k, layers) if h]
    wide = k.get("feed_forward_length", int, 0)  # none where only the experts' is said
    dense(k, out, partial=True, kv_heads=kv[0] if kv else 1, wide=wide)
    every, values = k.get("full_attention_interval", int, 4), k.need("ssm.time_step_rank", int)
    k.get("rope.dimension_sections", object)  # text turns all sections alike
    recurrent = [k.has(f"blk.{i}.ssm_a") for i in range(layers)]
    out |= {"full_attention_interval": every, "linear_num_value_heads": values,
            "linear_num_key_heads": k.need("ssm.group_count", int),
            "linear_key_head_dim": k.need("ssm.state_size", int),
            "linear_value_head_dim": per_head(k, values), "linear_conv_kernel_dim": k.need("ssm.conv_kernel", int),
            "layer_types": ["linear_attention" if r else "full_attention" for r in recurrent],
            "attention_bias": biased(k, layers, "attn_q")}


def delta_moe(k: Keys, out: dict[str, Any]) -> None:
    delta(k, out)
    sized(k, out)
    out["shared_expert_intermediate_size"] = k.get("expert_shared_feed_forward_length", int, 0)
    if k.architecture == "qwen3next":
        out |= {"projections_apart": True, "norm_topk_prob": k.get("expert_weights_norm", bool, True)}
    else:
        k.only("expert_weights_norm", bool, True)


def net(tiled: bool) -> dict[str, To]:
    """A gated delta net; ``tiled`` where llama.cpp has dealt the value heads out over the key heads."""
    v = "v_" if tiled else ""
    at = "linear_attn"
    return {"attn_qkv": To(f"{at}.in_proj_qkv", "qkv_v" if tiled else "module"),
            "attn_gate": To(f"{at}.in_proj_z", "v_rows" if tiled else "module"),
            "ssm_a": To(f"{at}.A_log", f"{v}a_log"), "ssm_dt": To(f"{at}.dt_bias", f"{v}value"),
            "ssm_conv1d": To(f"{at}.conv1d", f"{v}conv"), "ssm_norm": To(f"{at}.norm", "vector"),
            "ssm_out": To(f"{at}.out_proj", "v_columns" if tiled else "module"), "ssm_ba": To(at, "ba"),
            "ssm_beta": To(f"{at}.in_proj_b", "v_rows"), "ssm_alpha": To(f"{at}.in_proj_a", "v_rows"),
            "post_attention_norm": To("post_attention_layernorm", "vector")}


MAMBA = {"token_embd": To("backbone.embeddings"), "output_norm": To("backbone.norm_f", "vector"),
         "output": To("lm_head"), "attn_norm": To("norm", "vector")}
LFM2 = {**QWEN2, "token_embd_norm": To("model.embedding_norm", "vector"),
        "output_norm": To("model.embedding_norm", "vector"), "attn_norm": To("operator_norm", "vector"),
        "ffn_norm": To("ffn_norm", "vector"), "attn_output": To("self_attn.out_proj"),
        **{f"attn_{x}_norm": To(f"self_attn.{x}_layernorm", "vector") for x in "qk"},
        "shortconv.conv": To("conv.conv", "conv"), "shortconv.in_proj": To("conv.in_proj"),
        "shortconv.out_proj": To("conv.out_proj")}
W = {"ffn_gate": To("feed_forward.w1"), "ffn_up": To("feed_forward.w3"), "ffn_down": To("feed_forward.w2")}
HYBRID = {**ROOT, "output_norm": To("model.final_layernorm", "vector"), "attn_norm": To("input_layernorm", "vector"),
          "ffn_norm": To("pre_ff_layernorm", "vector"), **mlp("feed_forward")}
RECURRENT: dict[str, Reading] = {
    "mamba": Reading("mamba", {**MAMBA, **ssm("mixer", dt_bias=False)}, mamba),
    "mamba2": Reading("mamba2", {**MAMBA, **ssm("mixer", dt_bias=True)}, mamba2),
    "jamba": Reading("jamba", {
        **HYBRID, **attention("self_attn"), **ssm("mamba", dt_bias=False), **experts("feed_forward.switch_mlp"),
        "ffn_gate_inp": To("feed_forward.router", "numbers")}, jamba),
    "falcon-h1": Reading("falcon_h1", {
        **HYBRID, **attention("self_attn"), **ssm("mamba", dt_bias=True)}, falcon_h1),
    "granitehybrid": Reading("granitemoehybrid", granite_hybrid_table, granite_hybrid),
    "lfm2": Reading("lfm2", {**LFM2, **W}, lfm2),
    "lfm2moe": Reading("lfm2_moe", {
        **LFM2, **mlp("feed_forward"), **experts("feed_forward.switch_mlp"),
        "ffn_gate_inp": To("feed_forward.gate", "numbers"), "exp_probs_b": To("feed_forward.expert_bias", "value")},
        lfm2_moe),
    "qwen3next": Reading("qwen3_next", {**QWEN2_MOE, **HEAD_NORMS, **net(tiled=False)}, delta_moe),
    "qwen35": Reading("qwen3_5_text", {**QWEN2, **HEAD_NORMS, **net(tiled=True)}, delta),
    "qwen35moe": Reading("qwen3_5_moe_text", {**QWEN2_MOE, **HEAD_NORMS, **net(tiled=True)}, delta_moe),
}
