"""Checkpoints as llama.cpp's converter writes them: names by the gguf package's own map, values by its definitions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.tensor_mapping import get_tensor_name_map
from gguf_made import interleaved, tokenizer, write

ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
# Newer than the gguf package that is installed, which has its tensors' names under another model's.
NEWER = {"deepseek32": ARCHITECTURES["glm-dsa"]}
PERMUTED = ("llama", "internlm2", "granite", "granitemoe", "granitehybrid", "minicpm", "olmo", "bailingmoe",
            "mistral3")  # whose rope turns neighbours in llama.cpp and halves in Hugging Face
PLUS_ONE = ("gemma", "qwen3next", "qwen35", "qwen35moe")  # norms that keep their distance from one
SUFFIXES = (".weight", ".bias")


def convert(path: Path, architecture: str, state: dict[str, np.ndarray], c: dict[str, Any],
            own: dict[str, Any], extra: dict[str, np.ndarray], change=lambda name, value: value) -> Path:
    """Writes the checkpoint ``state`` with config.json ``c``; ``own`` is metadata beside what all have."""
    names = get_tensor_name_map((ARCHITECTURES | NEWER)[architecture], layers(c))
    tensors: dict[str, np.ndarray] = dict(extra)
    metadata = {**base(c), **own}
    for name, value in stacked(state).items():
        for new, part in changed(name, value, architecture, c, metadata):
            stem, suffix = next(((new.removesuffix(s), s) for s in SUFFIXES if new.endswith(s)), (new, ""))
            if (suffix and stem.endswith("attn_sinks")) or new.startswith("blk.") or new in ("rope_freqs.weight",):
                mapped = new
            else:
                found = names.get_name(stem, SUFFIXES) or names.get_name(new, SUFFIXES)
                assert found, f"{architecture}: the gguf package has no name for {new}"
                mapped = found + (suffix if not found.endswith(SUFFIXES) else "")
            tensors[mapped] = np.ascontiguousarray(part, np.float32)
    if c.get("tie_word_embeddings"):
        tensors.pop("output.weight", None)
    metadata = {key: value for key, value in metadata.items() if value is not None}
    tensors = {name: change(name, value) for name, value in tensors.items()}
    path.parent.mkdir(exist_ok=True)
    return write(path, architecture, {**metadata, **tokenizer()}, tensors)


def layers(c: dict[str, Any]) -> int:
    return first(c, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers")


def first(c: dict[str, Any], *names: str, default: Any = None) -> Any:
    return next((c[n] for n in names if c.get(n) is not None), default)


def base(c: dict[str, Any]) -> dict[str, Any]:
    """The metadata that the converter writes for every text model, where its config says so."""
    heads = first(c, "num_attention_heads", "n_head", "n_heads")
    rope = c.get("rope_parameters") or {}
    full = rope.get("full_attention", rope) if isinstance(rope, dict) else {}
    scoring = {"sigmoid": 2, "softmax": 1}.get(first(c, "scoring_func", "score_function", "score_func", default=""))
    rms = first(c, "rms_norm_eps", "norm_eps", "layernorm_epsilon")
    out = {
        "block_count": layers(c), "embedding_length": first(c, "hidden_size", "n_embd", "d_model", "model_dim"),
        "context_length": first(c, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
        "feed_forward_length": first(c, "intermediate_size", "n_inner"),
        "attention.head_count": heads, "attention.head_count_kv": first(c, "num_key_value_heads", default=heads),
        "attention.layer_norm_rms_epsilon": rms if rms is None else float(rms),
        "attention.layer_norm_epsilon": first(c, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
        "rope.freq_base": first(full, "rope_theta", default=c.get("rope_theta")),
        "attention.key_length": c.get("head_dim"), "attention.value_length": c.get("head_dim"),
        "expert_count": first(c, "num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": first(c, "num_experts_per_tok"), "expert_gating_func": scoring,
        "expert_group_count": c.get("n_group"), "expert_group_used_count": c.get("topk_group"),
    }
    return {k: float(v) if k in ("rope.freq_base", "attention.layer_norm_epsilon") and v is not None else v
            for k, v in out.items()}


def stacked(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts saved one by one, made one tensor."""
    out, parts = {}, {}
    for name, value in state.items():
        expert = re.fullmatch(r"(.+\.experts)\.(\d+)\.(\w+)\.weight", name)
        if expert:
            parts.setdefault(f"{expert[1]}.{expert[3]}.weight", {})[int(expert[2])] = value
        else:
            out[name] = value
    return {**out, **{name: np.stack([rows[i] for i in range(len(rows))]) for name, rows in parts.items()}}


def changed(name: str, value: np.ndarray, architecture: str, c: dict[str, Any], metadata: dict[str, Any]):
    """(name, values) pairs that the converter makes of one tensor, still under Hugging Face's names."""
    if name.endswith(("rotary_emb.inv_freq", ".attn.bias", "masked_bias")):
        return
    if own := OWN.get(architecture):
        pieces = own(name, value, c, metadata)
        if pieces is not None:
            yield from pieces
            return
    heads, kv = metadata["attention.head_count"], metadata["attention.head_count_kv"]
    kv = max(kv) if isinstance(kv, list) else kv
    if architecture in PERMUTED and re.search(r"\.[qk]_proj\.(weight|bias)$", name):
        value = interleaved(value, heads if ".q_proj" in name else kv)
    if architecture in PLUS_ONE and name.endswith("norm.weight") and "linear_attn" not in name:
        value = value + 1
    if name.endswith("A_log"):
        value = -np.exp(value)
    if "conv1d" in name or "conv.conv" in name:
        value = value.squeeze(1) if value.ndim == 3 else value
    if name.endswith("dt_bias"):
        name = name.removesuffix("dt_bias") + "dt_proj.bias"
    if name.endswith(("experts.gate_up_proj", "input_linear.weight")):
        gate, up = np.split(value, 2, axis=-2)
        stem = name.removesuffix(".weight").rpartition(".")[0]
        yield from ((f"{stem}.{part}_proj.weight", w) for part, w in (("gate", gate), ("up", up)))
        return
    if name.endswith("experts.down_proj"):
        name += ".weight"
    for old in ("expert_bias", "e_score_correction_bias"):
        if name.endswith(old):
            name = name.removesuffix("_bias") + ".bias" if old.startswith("e_") else f"{name}.bias"
    yield name, value


def layer(name: str) -> int:
    return int(re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)[1])


def mamba2(name, value, c, metadata):
    """Mamba 2's decays and norms, a column or a row for each group."""
    if name.endswith("A_log"):
        return [(name, -np.exp(value).reshape(-1, 1))]
    if name.endswith(".D"):
        return [(name, value.reshape(-1, 1))]
    if name.endswith(("mixer.norm.weight", "mamba.norm.weight")):
        return [(name, value.reshape(metadata["ssm.group_count"], -1))]
    return None


def falcon_h1(name, value, c, metadata):
    """All multipliers go into the weights."""
    ssm, inner, state = c["ssm_multipliers"], c["mamba_d_ssm"], c["mamba_n_groups"] * c["mamba_d_state"]
    factors = {"down_proj": c["mlp_multipliers"][1], "gate_proj": c["mlp_multipliers"][0],
               "k_proj": c["key_multiplier"] * c["attention_in_multiplier"], "q_proj": c["attention_in_multiplier"],
               "v_proj": c["attention_in_multiplier"], "o_proj": c["attention_out_multiplier"],
               "out_proj": c["ssm_out_multiplier"], "lm_head": c["lm_head_multiplier"],
               "embed_tokens": c["embedding_multiplier"]}
    module = name.split(".")[-2]
    if module == "in_proj":
        sizes = (inner, inner, state, state, c["mamba_n_heads"])
        rows = np.concatenate([np.full(n, m) for n, m in zip(sizes, ssm, strict=True)])[:, None]
        return [(name, value * rows * c["ssm_in_multiplier"])]
    if name.endswith("mamba.conv1d.weight"):
        return [(name, value.squeeze(1))]
    if module in factors:
        return [(name, value * factors[module])]
    return mamba2(name, value, c, metadata)


def gpt2(name, value, c, metadata):
    transposed = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
    return [(name, value.T if transposed else value)]


def by_group(name, value, c, metadata):
    """Queries, keys and values that lie group by group, put one after the other."""
    if "query_key_value" not in name:
        return None
    heads, kv = metadata["attention.head_count"], metadata["attention.head_count_kv"]
    groups = value.reshape(kv, heads // kv + 2, -1, *value.shape[1:])
    parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
    return [(name, np.concatenate([p.reshape(-1, *value.shape[1:]) for p in parts]))]


def internlm2(name, value, c, metadata):
    if "wqkv" not in name:
        return None
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    groups = value.reshape(kv, heads // kv + 2, -1, value.shape[-1])
    q, k, v = (p.reshape(-1, value.shape[-1]) for p in (groups[:, :-2], groups[:, -2], groups[:, -1]))
    at = f"blk.{layer(name)}"
    return [(f"{at}.attn_q.weight", interleaved(q, heads)), (f"{at}.attn_k.weight", interleaved(k, kv)),
            (f"{at}.attn_v.weight", v)]


def bailing(name, value, c, metadata):
    if not name.endswith("query_key_value.weight"):
        return None
    heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    q, k, v = np.split(value, [heads * dim, (heads + kv) * dim])
    at = f"blk.{layer(name)}"
    return [(f"{at}.attn_q.weight", interleaved(q, heads)), (f"{at}.attn_k.weight", interleaved(k, kv)),
            (f"{at}.attn_v.weight", v)]


def stablelm(name, value, c, metadata):
    """A norm for each head, stacked."""
    match = re.match(r"(.+\.([qk])_layernorm)\.norms\.0\.weight", name)
    if match:
        return [(f"{match[1]}.weight", STACKED[match[1]])]
    return [] if ".norms." in name else None


STACKED: dict[str, np.ndarray] = {}


def apertus(name, value, c, metadata):
    match = re.search(r"layers\.(\d+)\.mlp\.act_fn\.(\w+)$", name)
    if not match:
        return None
    metadata.setdefault(f"xielu.{match[2]}", [0.0] * layers(c))[int(match[1])] = float(np.ravel(value)[0])
    return []


def openelm(name, value, c, metadata):
    if "ffn.proj_1" not in name:
        return None
    gate, up = np.split(value, 2)
    return [(f"blk.{layer(name)}.ffn_gate.weight", gate), (f"blk.{layer(name)}.ffn_up.weight", up)]


def llama4(name, value, c, metadata):
    at = f"blk.{layer(name)}" if ".layers." in name else ""
    if name.endswith("experts.gate_up_proj"):
        gate, up = np.split(value.swapaxes(-1, -2), 2, axis=-2)
        return [(f"{at}.ffn_gate_exps.weight", gate), (f"{at}.ffn_up_exps.weight", up)]
    return [(f"{at}.ffn_down_exps.weight", value.swapaxes(-1, -2))] if name.endswith("experts.down_proj") else None


def granite_hybrid(name, value, c, metadata):
    at = f"blk.{layer(name)}" if ".layers." in name else ""
    experts = bool(c.get("num_local_experts"))
    if "shared_mlp.input_linear" in name:
        end = "_shexp" if experts else ""
        return [(f"{at}.ffn_{part}{end}.weight", w) for part, w in zip(("gate", "up"), np.split(value, 2), strict=True)]
    if "shared_mlp.output_linear" in name and not experts:
        return [(f"{at}.ffn_down.weight", value)]
    return granite_moe(name, value, c, metadata) or mamba2(name, value, c, metadata)


def granite_moe(name, value, c, metadata):
    at = f"blk.{layer(name)}" if ".layers." in name else ""
    if name.endswith(("block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj")):
        gate, up = np.split(value, 2, axis=-2)
        return [(f"{at}.ffn_gate_exps.weight", gate), (f"{at}.ffn_up_exps.weight", up)]
    return [(f"{at}.ffn_down_exps.weight", value)] if name.endswith("block_sparse_moe.experts.down_proj") else None


def qwen3_next(name, value, c, metadata):
    keys, values = c["linear_num_key_heads"], c["linear_num_value_heads"]
    kd, vd = c["linear_key_head_dim"], c["linear_value_head_dim"]
    if "in_proj_qkvz" not in name:
        return None
    each = values // keys * vd
    q, k, v, z = np.split(value.reshape(keys, 2 * kd + 2 * each, -1), [kd, 2 * kd, 2 * kd + each], axis=1)
    at = f"blk.{layer(name)}"
    qkv = np.concatenate([p.reshape(-1, value.shape[-1]) for p in (q, k, v)])
    return [(f"{at}.attn_qkv.weight", qkv), (f"{at}.attn_gate.weight", z.reshape(-1, value.shape[-1]))]


def tiled(x: np.ndarray, axis: int, keys: int, dim: int) -> np.ndarray:
    """Value heads dealt out over the key heads."""
    x = np.moveaxis(x, axis, 0)
    out = x.reshape(keys, -1, dim, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
    return np.moveaxis(out, 0, axis)


def qwen35(name, value, c, metadata):
    keys, vd = c["linear_num_key_heads"], c["linear_value_head_dim"]
    first_rows = 2 * keys * c["linear_key_head_dim"]
    if "linear_attn" not in name:
        return None
    part = name.split("linear_attn.")[1]
    if part.startswith(("in_proj_qkv", "conv1d")):
        value = value.squeeze(1) if value.ndim == 3 else value
        return [(name, np.concatenate([value[:first_rows], tiled(value[first_rows:], 0, keys, vd)]))]
    if part.startswith("in_proj_z"):
        return [(name, tiled(value, 0, keys, vd))]
    if part.startswith(("in_proj_a", "in_proj_b")):
        return [(name, tiled(value, 0, keys, 1))]
    if part == "A_log":
        return [(name, -np.exp(tiled(value, 0, keys, 1)))]
    if part == "dt_bias":
        return [(name.removesuffix("dt_bias") + "dt_proj.bias", tiled(value, 0, keys, 1))]
    return [(name, tiled(value, 1, keys, vd))] if part.startswith("out_proj") else None


def gemma3n(name, value, c, metadata):
    match = re.match(r"model\.(altup_\w*projections)\.(\d)\.weight", name)
    if match:
        STACKED.setdefault(match[1], {})[int(match[2])] = value
        if len(STACKED[match[1]]) < c["altup_num_inputs"] - 1:
            return []
        rows = STACKED.pop(match[1])
        return [(f"model.{match[1]}.weight", np.stack([rows[i] for i in range(len(rows))]))]
    return [(f"{name}.weight", value)] if name.endswith("_scale") else None


def gemma4(name, value, c, metadata):
    at = f"blk.{layer(name)}" if ".layers." in name else ""
    if name.endswith("router.scale"):
        return [(f"{at}.ffn_gate_inp.scale", value)]
    if name.endswith("per_expert_scale"):
        return [(f"{at}.ffn_down_exps.scale", value)]
    if name.endswith("layer_scalar"):
        return [(f"{name}.weight", value)]
    if name.endswith("experts.gate_up_proj"):
        return [(f"{at}.ffn_gate_up_exps.weight", value)]
    return [(f"{at}.ffn_down_exps.weight", value)] if name.endswith("experts.down_proj") else None


def deepseek2(name, value, c, metadata):
    if "kv_b_proj" not in name:
        return None
    per_head = value.reshape(c["num_attention_heads"], -1, value.shape[1])
    at, nope = f"blk.{layer(name)}", c["qk_nope_head_dim"]
    return [(f"{at}.attn_k_b.weight", per_head[:, :nope].swapaxes(1, 2)), (f"{at}.attn_v_b.weight", per_head[:, nope:])]


def lfm2_moe(name, value, c, metadata):
    return [(name.removeprefix("model."), value)] if ".experts." in name and "bias" not in name else None


def bitnet(name, value, c, metadata):
    if name.endswith("sub_norm.weight"):
        return [(f"blk.{layer(name)}.{name.split('.')[-2]}.weight", value)]
    return [(name, ternary(value))] if name.endswith("_proj.weight") else None


def ternary(w: np.ndarray) -> np.ndarray:
    """-1, 0 or 1 times one scale."""
    scale = max(np.abs(w).mean(), 1e-5)
    return np.clip(np.round(w / scale), -1, 1) * scale


def mimo2(name, value, c, metadata):
    if "sink" in name:
        return [(f"blk.{layer(name)}.attn_sinks.weight", value)]
    return None


OWN = {
    "mamba2": mamba2, "falcon-h1": falcon_h1, "gpt2": gpt2, "falcon": by_group, "gptneox": by_group,
    "internlm2": internlm2, "bailingmoe": bailing, "stablelm": stablelm, "apertus": apertus, "openelm": openelm,
    "llama4": llama4, "granitehybrid": granite_hybrid, "granitemoe": granite_moe, "qwen3next": qwen3_next,
    "qwen35": qwen35, "qwen35moe": qwen35, "gemma3n": gemma3n, "gemma4": gemma4, "deepseek2": deepseek2,
    "deepseek32": deepseek2, "mimo2": mimo2, "lfm2moe": lfm2_moe, "bitnet": bitnet,
}
