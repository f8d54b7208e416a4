"""Tiny GGUF files, and transformers checkpoints written as llama.cpp's converter would: permuted, stacked, shifted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
NAMES = {  # transformers' module in a layer to llama.cpp's tensor
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "norm": "attn_norm", "self_attn.o_proj": "attn_output",
    "mixer.o_proj": "attn_output",
    **{f"{at}.{x}_proj": f"attn_{x}" for at in ("self_attn", "mixer") for x in "qkv"},
    **{f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"}, "self_attn.sinks": "attn_sinks.weight",
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
    "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp", "mixer.gate": "ffn_gate_inp",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias", "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "mixer.in_proj": "ssm_in", "mixer.out_proj": "ssm_out", "mixer.conv1d": "ssm_conv1d",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a", "mixer.D": "ssm_d", "mixer.norm": "ssm_norm", "mixer.up_proj": "ffn_up",
    "mixer.down_proj": "ffn_down", "mixer.experts.up_proj": "ffn_up_exps.weight",
    "mixer.experts.down_proj": "ffn_down_exps.weight", "mixer.shared_experts.up_proj": "ffn_up_shexp",
    "mixer.shared_experts.down_proj": "ffn_down_shexp",
}
TOP = {"embed_tokens": "token_embd", "embeddings": "token_embd", "norm": "output_norm", "norm_f": "output_norm"}
AFTER_ATTENTION = ("gemma2", "gemma3", "glm4moe", "gpt-oss")  # where that norm keeps its own name


def write(path: Path, architecture: str | None, metadata: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """``tensors``: name to an array, or to (bytes of rows, type). Keys without a dot belong to the architecture."""
    writer = gguf.GGUFWriter(path, architecture or "none")
    for key, value in metadata.items():
        key = key if key.startswith(("general.", "tokenizer.", "split.")) else f"{architecture}.{key}"
        add(writer, key, value)
    for name, value in tensors.items():
        data, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    types = {bool: "bool", int: "uint32", float: "float32", str: "string"}
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        getattr(writer, f"add_{types[type(value)]}")(key, value)


def tokenizer(**changes) -> dict[str, Any]:
    """Metadata of a small SentencePiece tokenizer; None takes a key away."""
    keys = {"model": "llama", "tokens": TOKENS, "scores": [0.0, 0.0, 0.0, -3.0, -4.0, -2.0],
            "token_type": [2, 3, 3, 1, 1, 1],
            "bos_token_id": 1, "eos_token_id": 2, **changes}
    return {f"tokenizer.ggml.{k}": v for k, v in keys.items() if v is not None}


def llama(vocab: int = 32, dim: int = 64, layers: int = 1) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, tensors) of a llama with random weights."""
    rng = np.random.default_rng(0)
    metadata = {"block_count": layers, "embedding_length": dim, "feed_forward_length": 96, "context_length": 128,
                "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
                "rope.freq_base": 10000.0, "rope.dimension_count": dim // 4}
    shapes = {"attn_q": (dim, dim), "attn_k": (dim // 2, dim), "attn_v": (dim // 2, dim), "attn_output": (dim, dim),
              "ffn_gate": (96, dim), "ffn_up": (96, dim), "ffn_down": (dim, 96), "attn_norm": (dim,),
              "ffn_norm": (dim,)}
    all_shapes = {"token_embd": (vocab, dim), "output_norm": (dim,),
                  **{f"blk.{i}.{n}": s for i in range(layers) for n, s in shapes.items()}}
    return metadata, {f"{n}.weight": rng.normal(size=s).astype(np.float32) for n, s in all_shapes.items()}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows with each head's two halves interleaved, as llama.cpp's rotary kernel wants them for Llama."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def converted(state: dict[str, np.ndarray], architecture: str, config: Any) -> dict[str, np.ndarray]:
    """A transformers state dict under llama.cpp's names, with the changes to values that its converter makes."""
    out: dict[str, np.ndarray] = {}
    for name, value in _stacked(state).items():
        layer = re.fullmatch(r"(?:model|backbone)\.layers\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
        if layer is None:
            stem = re.sub(r"^(model|backbone)\.", "", name.removesuffix(".weight"))
            value = value + 1 if architecture.startswith("gemma") and stem == "norm" else value
            out[f"{TOP.get(stem, 'output')}.weight"] = value
            continue
        for stem, part in _layer(layer[2], value, architecture, config, layer[3] or ""):
            if part.ndim == 1 or stem.endswith(".bias"):
                part = part.astype(np.float32)
            out[f"blk.{layer[1]}.{stem}"] = np.ascontiguousarray(part)
    if config.tie_word_embeddings:
        out.pop("output.weight", None)
    return out


def _layer(stem: str, value: np.ndarray, architecture: str, config: Any, suffix: str):
    kind = stem.rpartition(".")[2]
    if kind in ("gate_up_proj", "gate_up_proj_bias"):
        yield from _gate_up(value, architecture, kind.endswith("bias"))
    elif kind == "down_proj_bias":
        yield "ffn_down_exps.bias", value
    elif stem == "mlp.experts.down_proj":
        yield "ffn_down_exps.weight", value.swapaxes(1, 2) if architecture == "gpt-oss" else value
    elif kind == "kv_b_proj":
        heads = value.reshape(config.num_attention_heads, -1, value.shape[1])
        yield "attn_k_b.weight", heads[:, : config.qk_nope_head_dim].swapaxes(1, 2)
        yield "attn_v_b.weight", heads[:, config.qk_nope_head_dim :]
    else:
        if kind in ("q_proj", "k_proj") and architecture in ("llama", "smollm3", "nemotron_h", "nemotron_h_moe"):
            value = interleaved(value, config.num_attention_heads if kind == "q_proj" else config.num_key_value_heads)
        if architecture.startswith("gemma") and kind.endswith("norm"):
            value = value + 1
        reshape = {"A_log": lambda v: -np.exp(v).reshape(-1, 1), "D": lambda v: v.reshape(-1, 1)}
        value = reshape.get(kind, lambda v: v)(value)
        if stem == "mixer.conv1d" and suffix == ".weight":
            value = value.squeeze(1)
        if stem == "mixer.norm":
            value = value.reshape(config.n_groups, -1)
        own = stem == "post_attention_layernorm" and architecture in AFTER_ATTENTION
        yield ("post_attention_norm" if own else NAMES[stem]) + suffix, value


def _gate_up(value: np.ndarray, architecture: str, bias: bool):
    """Fused experts: gpt-oss has gate and up by turns and (in, out); the others one after the other and (out, in)."""
    if architecture == "gpt-oss":
        value = value if bias else value.swapaxes(1, 2)
        gate, up = value[:, ::2], value[:, 1::2]
    else:
        gate, up = np.split(value, 2, axis=1)
    for name, part in (("gate", gate), ("up", up)):
        yield f"ffn_{name}_exps.{'bias' if bias else 'weight'}", part


def _stacked(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts saved one by one, made one tensor."""
    out, parts = {}, {}
    for name, value in state.items():
        expert = re.fullmatch(r"(.+\.experts)\.(\d+)\.(\w+)\.weight", name)
        if expert:
            parts.setdefault((expert[1], expert[3]), {})[int(expert[2])] = value
        else:
            out[name] = value
    for (at, kind), rows in parts.items():
        out[f"{at}.{kind}"] = np.stack([rows[i] for i in range(len(rows))])
    return out
