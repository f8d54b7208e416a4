"""GGUF's dense architectures beyond the first ones: for each its tensors' places and how its metadata is read."""

from typing import Any

from .gguf_config import dense, layer_kinds
from .gguf_keys import Keys
from .gguf_names import GEMMA, HEAD_NORMS, LLAMA, PRE_NORM, QWEN2, ROOT, Reading, To, attention
from .gguf_rope import rope

# long: a row for each of thirty architectures
PLAIN = {**ROOT, **PRE_NORM, **attention("self_attn"), "ffn_up": To("mlp.up_proj"), "ffn_down": To("mlp.down_proj")}
FUSED_GATE = {**QWEN2, "ffn_up": To("mlp", "gate_up")}
AFTER = {"post_attention_norm": To("post_attention_layernorm", "vector"),
         "post_ffw_norm": To("post_feedforward_layernorm", "vector")}
NO_NORMS = {k: v for k, v in LLAMA.items() if k not in ("attn_norm", "ffn_norm", "output_norm")}
POST_NORM = {**{k: v for k, v in QWEN2.items() if k not in PRE_NORM}, **HEAD_NORMS, **AFTER}


def gemma(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out["hidden_activation"] = "gelu_pytorch_tanh"


def biased(name: str):
    """A reader of ``dense`` that tells of the queries' biases under ``name``."""
    def read(k: Keys, out: dict[str, Any]) -> None:
        dense(k, out)
        out[name] = k.has("blk.0.attn_q.bias")
    return read


def width(k: Keys, out: dict[str, Any]) -> None:
    """The MLP's width as its matrix has it: converters write four times the embedding's, whatever the model has."""
    tensor = k.tensors.get("blk.0.ffn_up.weight")
    if tensor is not None and len(tensor.shape) == 2:
        out["intermediate_size"] = tensor.shape[0]


def phi2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=True)
    width(k, out)
    out["hidden_act"] = "gelu_new"


def phi3(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=True)
    out["sliding_window"] = k.get("attention.sliding_window", int, 0) or None


def starcoder2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out |= {"use_bias": k.has("blk.0.attn_q.bias"), "sliding_window": k.get("attention.sliding_window", int),
            "hidden_act": "gelu_pytorch_tanh"}


def command_r(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out |= {"logit_scale": k.need("logit_scale", float), "use_qk_norm": k.has("blk.0.attn_q_norm.weight"),
            "attention_bias": k.has("blk.0.attn_q.bias")}


def cohere2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out |= {"logit_scale": k.need("logit_scale", float), "sliding_window": k.need("attention.sliding_window", int),
            "layer_types": layer_kinds(k, out, 4), "attention_bias": k.has("blk.0.attn_q.bias")}


def granite(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    scales(k, out)
    out |= {"attention_bias": k.has("blk.0.attn_q.bias"), "mlp_bias": k.has("blk.0.ffn_up.bias")}
    for key in ("expert_count", "expert_used_count"):
        k.only(key, int, 0)


def scales(k: Keys, out: dict[str, Any]) -> None:
    """Granite's four multipliers."""
    names = {"attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
             "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling"}
    out |= {ours: k.get(theirs, float, 1.0) for theirs, ours in names.items()}


def minicpm(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out |= {"scale_emb": k.get("embedding_scale", float, 12.0),
            "scale_depth": k.get("residual_scale", float, 1.4 / out["num_hidden_layers"]**0.5)
            * out["num_hidden_layers"]**0.5,
            "dim_model_base": round(out["hidden_size"] / k.get("logit_scale", float, out["hidden_size"] / 256))}


def exaone4(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    window = k.get("attention.sliding_window", int)
    out |= {"sliding_window": window, "sliding_window_pattern": None,
            "layer_types": layer_kinds(k, out, 4) if window else ["full_attention"] * out["num_hidden_layers"]}


def olmo(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out["clip_qkv"] = k.get("attention.clamp_kqv", float)


def olmo2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out["attention_bias"] = k.has("blk.0.attn_q.bias")
    if window := k.get("attention.sliding_window", int):
        out |= {"model_type": "olmo3", "sliding_window": window, "layer_types": layer_kinds(k, out, 4)}


def stablelm(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=True)
    out |= {"use_qkv_bias": k.has("blk.0.attn_q.bias"), "qk_layernorm": k.has("blk.0.attn_q_norm.weight"),
            "use_parallel_residual": k.get("use_parallel_residual", bool, not k.has("blk.0.ffn_norm.weight"))}


def gpt2(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, turned=False)
    width(k, out)


def starcoder(k: Keys, out: dict[str, Any]) -> None:
    gpt2(k, out)
    out["multi_query"] = out.pop("num_key_value_heads") == 1


def gpt_neox(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=True)
    out["use_parallel_residual"] = k.get("use_parallel_residual", bool, True)


def falcon(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    width(k, out)
    norms = 2 if k.has("blk.0.attn_norm_2.weight") else 1
    heads = out.pop("num_key_value_heads")
    out |= {"bias": k.has("blk.0.attn_qkv.bias"), "num_kv_heads": heads, "multi_query": heads == 1,
            "new_decoder_architecture": norms == 2 or heads > 1, "ffn_hidden_size": out.pop("intermediate_size")}
    out |= {"num_ln_in_parallel_attn": norms} if out["new_decoder_architecture"] else {}
    del out["head_dim"]


def mpt(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, turned=False)
    k.only("attention.max_alibi_bias", float, 8.0)
    out["attn_config"] = {"clip_qkv": k.get("attention.clamp_kqv", float)}
    out["max_seq_len"] = out.pop("max_position_embeddings")
    del out["intermediate_size"], out["num_key_value_heads"], out["head_dim"]


def seed_oss(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out |= {"attention_bias": k.has("blk.0.attn_q.bias"), "attention_out_bias": k.has("blk.0.attn_output.bias")}


def apertus(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    out |= {"hidden_act": "xielu", "attention_bias": k.has("blk.0.attn_q.bias")}
    if out["rope_scaling"] is None:
        out["rope_scaling"] = {"rope_type": "default"}


XIELU = ("alpha_n", "alpha_p", "beta", "eps")


def xielu(k: Keys, layers: int) -> dict[str, float]:
    """The activation's four constants of each layer, which the metadata holds."""
    out = {}
    for name in XIELU:
        values = [float(v) for v in k.per_layer(f"xielu.{name}", layers, "fiu")]
        out |= {f"model.layers.{i}.mlp.act_fn.{name}": v for i, v in enumerate(values)}
    return out


def mistral3(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    for key in ("expert_count", "expert_used_count"):
        k.only(key, int, 0)
    beta = k.get("attention.temperature_scale", float)
    weight = k.get("rope.scaling.yarn_log_multiplier", float)
    k.get("attention.temperature_length", int)
    settings = out.pop("rope_scaling") or {"rope_type": "default"}
    if weight:
        settings |= {"mscale": weight, "mscale_all_dim": weight}
    out["rope_parameters"] = {**settings, "llama_4_scaling_beta": beta, "rope_theta": out.pop("rope_theta")}


def openelm(k: Keys, out: dict[str, Any]) -> None:
    layers = out["num_hidden_layers"]
    wide = [k.tensors[f"blk.{i}.ffn_up.weight"].shape[0] if k.has(f"blk.{i}.ffn_up.weight") else 1
            for i in range(layers)]
    k.get("feed_forward_length", object)
    rope(k, out, out["head_dim"])
    out |= {"num_query_heads": k.per_layer("attention.head_count", layers),
            "num_kv_heads": k.per_layer("attention.head_count_kv", layers),
            "ffn_multipliers": [w / out["hidden_size"] for w in wide], "ffn_dim_divisor": 1,
            "normalize_qk_projections": k.has("blk.0.attn_q_norm.weight"),
            "share_input_output_layers": out["tie_word_embeddings"], "rope_freq_constant": out.pop("rope_theta"),
            "rope_max_length": out.pop("max_position_embeddings")}
    for key in ("num_attention_heads", "tie_word_embeddings"):
        del out[key]


def partial(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out, partial=True)
    out["attention_bias"] = k.has("blk.0.attn_q.bias") or k.has("blk.0.attn_qkv.bias")


def falcon_norms(k: Keys) -> dict[str, To]:
    """Falcon 40B has its attention's norm under the second name."""
    if not k.has("blk.0.attn_norm_2.weight"):
        return FALCON
    return {**FALCON, "attn_norm": To("post_attention_layernorm", "vector"),
            "attn_norm_2": To("input_layernorm", "vector")}


POSITIONED = {**PLAIN, "position_embd": To("model.wpe", "numbers")}
FALCON = {**PLAIN, "attn_norm_2": To("input_layernorm", "vector")}
GEMMA1 = {**GEMMA, "ffn_norm": To("post_attention_layernorm", "less_one")}
GLM4 = {**FUSED_GATE, "post_attention_norm": To("post_self_attn_layernorm", "vector"),
        "post_ffw_norm": To("post_mlp_layernorm", "vector")}
BITNET = {**QWEN2, "attn_sub_norm": To("self_attn.attn_sub_norm", "vector"),
          "ffn_sub_norm": To("mlp.ffn_sub_norm", "vector")}
DENSE: dict[str, Reading] = {
    "gemma": Reading("gemma", GEMMA1, gemma),
    "phi2": Reading("phi", {**PLAIN, "output_norm": To("model.final_layernorm", "vector")}, phi2),
    "phi3": Reading("phi3", FUSED_GATE, phi3),
    "starcoder2": Reading("starcoder2", PLAIN, starcoder2),
    "command-r": Reading("cohere", {**QWEN2, **HEAD_NORMS}, command_r),
    "cohere2": Reading("cohere2", QWEN2, cohere2),
    "internlm2": Reading("internlm2", LLAMA, biased("bias")),
    "granite": Reading("granite", LLAMA, granite),
    "minicpm": Reading("minicpm", LLAMA, minicpm),
    "bitnet": Reading("bitnet", BITNET, biased("attention_bias")),
    "ernie4_5": Reading("ernie4_5", QWEN2, biased("use_bias")),
    "exaone": Reading("exaone", QWEN2, dense),
    "exaone4": Reading("exaone4", POST_NORM, exaone4),
    "olmo": Reading("olmo", NO_NORMS, olmo),
    "olmo2": Reading("olmo2", POST_NORM, olmo2),
    "stablelm": Reading("stablelm", {**QWEN2, **HEAD_NORMS}, stablelm),
    "gpt2": Reading("gpt2", POSITIONED, gpt2),
    "starcoder": Reading("gpt_bigcode", POSITIONED, starcoder),
    "gptneox": Reading("gpt_neox", PLAIN, gpt_neox),
    "falcon": Reading("falcon", falcon_norms, falcon),
    "mpt": Reading("mpt", PLAIN, mpt),
    "hunyuan-dense": Reading("hunyuan_v1_dense", {**QWEN2, **HEAD_NORMS}, biased("attention_bias")),
    "seed_oss": Reading("seed_oss", {**QWEN2, "post_attention_norm": AFTER["post_attention_norm"]}, seed_oss),
    "apertus": Reading("apertus", {**PLAIN, **HEAD_NORMS}, apertus, xielu),
    "mistral3": Reading("ministral3", LLAMA, mistral3),
    "openelm": Reading("openelm", {**QWEN2, **HEAD_NORMS}, openelm),
    "glm4": Reading("glm4", GLM4, partial),
    "chatglm": Reading("glm", FUSED_GATE, partial),
}
