"""Types that transformers hasn't, against one of its own that computes the same under other names."""

import re

import torch

from ..reference import Case
from .first import LLAMA3

INTERNLM = (
    (r"^model\.embed_tokens", "model.tok_embeddings"),
    (r"^lm_head", "output"),
    (r"\.self_attn\.o_proj", ".attention.wo"),
    (r"\.input_layernorm", ".attention_norm"),
    (r"\.post_attention_layernorm", ".ffn_norm"),
    (r"\.mlp\.gate_proj", ".feed_forward.w1"),
    (r"\.mlp\.up_proj", ".feed_forward.w3"),
    (r"\.mlp\.down_proj", ".feed_forward.w2"),
)
EXAONE = (
    (r"^model\.embed_tokens", "transformer.wte"),
    (r"^model\.norm", "transformer.ln_f"),
    (r"^model\.layers", "transformer.h"),
    (r"\.self_attn\.o_proj", ".attn.attention.out_proj"),
    (r"\.self_attn", ".attn.attention"),
    (r"\.input_layernorm", ".ln_1"),
    (r"\.post_attention_layernorm", ".ln_2"),
    (r"\.mlp\.gate_proj", ".mlp.c_fc_0"),
    (r"\.mlp\.up_proj", ".mlp.c_fc_1"),
    (r"\.mlp\.down_proj", ".mlp.c_proj"),
)


def renamed(state: dict, pairs: tuple) -> dict:
    out = {}
    for name, tensor in state.items():
        for old, new in pairs:
            name = re.sub(old, new, name)
        out[name] = tensor
    return out


def as_internlm2(state: dict, config: dict, heads: int = 4, groups: int = 2) -> tuple[dict, dict]:
    """Queries, keys and values of a group side by side in one tensor."""
    state = renamed(state, INTERNLM)
    for name in [n for n in state if ".q_proj." in n]:
        parts = [state.pop(name.replace("q_proj", p)) for p in ("q_proj", "k_proj", "v_proj")]
        wide = [
            x.reshape(groups, -1, x.shape[0] // (heads if i == 0 else groups), *x.shape[1:])
            for i, x in enumerate(parts)
        ]
        state[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(wide, 1).flatten(0, 2)
    config = dict(config, model_type="internlm2", bias=config.get("attention_bias", False))
    config.pop("attention_bias", None)
    return state, config


def as_exaone(state: dict, config: dict) -> tuple[dict, dict]:
    config = dict(config, model_type="exaone")
    for old, new in (
        ("num_hidden_layers", "num_layers"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("hidden_act", "activation_function"),
    ):
        if old in config:
            config[new] = config.pop(old)
    return renamed(state, EXAONE), config


def as_minicpm(state: dict, config: dict) -> tuple[dict, dict]:
    """Granite's multipliers in MiniCPM's words: the residual's is scale_depth over the root of the depth."""
    config = dict(config, model_type="minicpm")
    if "embedding_multiplier" in config:
        config["scale_emb"] = config.pop("embedding_multiplier")
        config["scale_depth"] = config.pop("residual_multiplier") * config["num_hidden_layers"] ** 0.5
        config["dim_model_base"] = int(config["hidden_size"] / config.pop("logits_scaling"))
        del config["attention_multiplier"]
    return state, config


def as_mimo(state: dict, config: dict) -> tuple[dict, dict]:
    ahead = {
        n.replace("model.layers.0", "model.mtp_layers.0"): t.clone() for n, t in state.items() if ".layers.0." in n
    }
    return {**state, **ahead}, dict(config, model_type="mimo", num_nextn_predict_layers=1, attention_bias=True)


def as_acereason(state: dict, config: dict) -> tuple[dict, dict]:
    return state, dict(config, model_type="acereason")


LILLE = (
    (r"^model\.embed_tokens", "transformer.tok_embeddings"),
    (r"^model\.", "transformer."),
    (r"\.input_layernorm", ".attention.norm"),
    (r"\.post_attention_layernorm", ".feed_forward.norm"),
    (r"\.self_attn\.o_proj", ".attention.out_proj"),
    (r"\.mlp\.", ".feed_forward."),
)


def as_lille(state: dict, config: dict) -> tuple[dict, dict]:
    """Queries, keys and values one after the other in one tensor; sizes in GPT-2's words."""
    state = renamed(state, LILLE)
    for name in [n for n in state if ".q_proj." in n]:
        parts = [state.pop(name.replace("q_proj", p)) for p in ("q_proj", "k_proj", "v_proj")]
        state[name.replace("self_attn.q_proj", "attention.qkv_proj")] = torch.cat(parts)
    if not config:
        return state, config
    words = dict(
        n_embd="hidden_size",
        n_layer="num_hidden_layers",
        n_head="num_attention_heads",
        vocab_size="vocab_size",
        n_kv_heads="num_key_value_heads",
        layer_norm_eps="rms_norm_eps",
        block_size="max_position_embeddings",
    )
    rope = dict(rope_theta=config["rope_parameters"]["rope_theta"], tie_word_embeddings=True)
    return state, {"model_type": "lille-130m", **{new: config[old] for new, old in words.items()}, **rope}


MUP = dict(embedding_multiplier=12.0, residual_multiplier=1.4 / 2, logits_scaling=4.0, attention_multiplier=0.25)
NTK = dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)

CASES = [
    Case("internlm2", "groups", like="llama", rewrite=as_internlm2),
    Case(
        "internlm2",
        "biases-dynamic-rope",
        dict(attention_bias=True, max_position_embeddings=16, rope_parameters=NTK),
        like="llama",
        rewrite=as_internlm2,
        by_length=True,
        mlx_lm_wrong="has no dynamic rope",
    ),
    Case(
        "exaone", "tied-llama3", dict(tie_word_embeddings=True, rope_parameters=LLAMA3), like="llama", rewrite=as_exaone
    ),
    Case("exaone", "untied", like="llama", rewrite=as_exaone),
    Case("minicpm", "scaled", MUP, like="granite", rewrite=as_minicpm),
    Case(
        "minicpm",
        "tied",
        dict(MUP, tie_word_embeddings=True),
        like="granite",
        rewrite=as_minicpm,
        mlx_lm_wrong="doesn't scale the logits of a tied head",
    ),
    Case("mimo", "with-a-layer-ahead", like="qwen2", rewrite=as_mimo),
    Case("mimo", "tied", dict(tie_word_embeddings=True), like="qwen2", rewrite=as_mimo),
    Case("acereason", "plain", like="qwen2", rewrite=as_acereason, mlx_lm_wrong="has no such type"),
    Case(
        "acereason",
        "tied-linear-rope",
        dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
        like="qwen2",
        rewrite=as_acereason,
        mlx_lm_wrong="has no such type",
    ),
    Case(
        "lille-130m",
        "plain",
        dict(hidden_size=96, intermediate_size=256, head_dim=24, tie_word_embeddings=True),
        like="helium",
        rewrite=as_lille,
    ),
    Case(
        "lille-130m",
        "odd-heads-theta",
        dict(
            hidden_size=96,
            intermediate_size=256,
            head_dim=32,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=500.0),
        ),
        like="helium",
        rewrite=as_lille,
    ),
]
