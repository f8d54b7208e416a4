"""A tiny random llama checkpoint with tokenizer and chat template, written by hand: no torch, no wait."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def checkpoint(folder: Path, *, seed: int = 0, chat_template: str | None = TEMPLATE, **config) -> Path:
    """Writes a llama in Hugging Face's layout to `folder` and returns it; `config` overrides config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    size = tokenizer(folder, chat_template)
    settings = {**CONFIG, "vocab_size": size, "bos_token_id": 0, "eos_token_id": 2, **config}
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
    mx.save_safetensors(str(folder / "model.safetensors"), weights(settings, seed), {"format": "pt"})
    return folder


def deepened(folder: Path, layers: int) -> None:
    """The one layer's weights for every layer, so that a large checkpoint is made in no time."""
    weights = mx.load(str(folder / "model.safetensors"))
    one = {name: w for name, w in weights.items() if ".layers.0." in name}
    for i in range(1, layers):
        weights |= {name.replace(".layers.0.", f".layers.{i}."): w for name, w in one.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))


def tokenizer(folder: Path, chat_template: str | None = TEMPLATE) -> int:
    """Writes a tokenizer of bytes (no merges, `SPECIAL` comes first) and returns its vocabulary's size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": SPECIAL[0], "eos_token": SPECIAL[2],
                "clean_up_tokenization_spaces": False}
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return len(vocab)


def weights(config: dict, seed: int) -> dict[str, mx.array]:
    """Random float32 weights by Hugging Face's names; norms differ from one, so a skipped norm shows."""
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (size, hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": (hidden,),
            at + "post_attention_layernorm.weight": (hidden,),
            at + "self_attn.q_proj.weight": (queries, hidden),
            at + "self_attn.k_proj.weight": (keys, hidden),
            at + "self_attn.v_proj.weight": (keys, hidden),
            at + "self_attn.o_proj.weight": (hidden, queries),
            at + "mlp.gate_proj.weight": (inner, hidden),
            at + "mlp.up_proj.weight": (inner, hidden),
            at + "mlp.down_proj.weight": (hidden, inner),
        }
    random = np.random.default_rng(seed)
    return {name: mx.array(_draw(random, shape)) for name, shape in shapes.items()}


def _draw(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return (random.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
