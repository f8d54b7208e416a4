"""Bailing MoE and Kimi K2, which transformers hasn't, against types that compute the same under other names."""

import torch

from ..reference import Case
from .first import GROUPED, LATENT, RACE, YARN
from .remote import renamed

BAILING = (
    (r"^model\.embed_tokens", "model.word_embeddings"),
    (r"\.self_attn\.o_proj", ".attention.dense"),
    (r"\.self_attn\.q_norm", ".attention.query_layernorm"),
    (r"\.self_attn\.k_norm", ".attention.key_layernorm"),
    (r"\.self_attn", ".attention"),
    (r"gate\.e_score_correction_bias", "gate.expert_bias"),
)
WORDS = {
    "n_routed_experts": "num_experts",
    "num_local_experts": "num_experts",
    "n_shared_experts": "num_shared_experts",
    "attention_bias": "use_qkv_bias",
}


def apart(state: dict) -> dict:
    """Experts one by one, as they lie in the files of these types."""
    out = {}
    for name, tensor in state.items():
        head, found, part = name.partition(".experts.")
        names = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(part) if found else None
        for i, expert in enumerate(tensor if names else ()):
            for new, w in zip(names, expert.chunk(len(names)), strict=True):
                out[f"{head}.experts.{i}.{new}.weight"] = w.clone()
        if not names:
            out[name] = tensor
    return out


def as_kimi(state: dict, config: dict) -> tuple[dict, dict]:
    return apart(state), dict(config, model_type="kimi_k2")


def as_bailing(state: dict, config: dict, **own) -> tuple[dict, dict]:
    state = apart(renamed(state, BAILING))
    for name in [n for n in state if ".q_proj." in n]:
        parts = [state.pop(name.replace("q_proj", p)) for p in ("q_proj", "k_proj", "v_proj")]
        state[name.replace("q_proj", "query_key_value")] = torch.cat(parts)
    config = {WORDS.get(k, k): v for k, v in config.items()}
    dropped = ("decoder_sparse_step", "mlp_only_layers", "sliding_window", "max_window_layers")
    config = {k: v for k, v in config.items() if k not in dropped}
    return state, {**config, "model_type": "bailing_moe", **own}


def as_ling2(state: dict, config: dict) -> tuple[dict, dict]:
    return as_bailing(state, config, score_function="sigmoid", moe_router_enable_expert_bias=True)


def as_ling(state: dict, config: dict) -> tuple[dict, dict]:
    return as_bailing(state, config, first_k_dense_replace=1, num_shared_experts=0, use_qk_norm=True)


GLM = dict(
    head_dim=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
    n_shared_experts=2,
    use_qk_norm=True,
    routed_scaling_factor=1.7,
)
KIMI = dict(
    GROUPED,
    **LATENT,
    q_lora_rank=32,
    n_group=1,
    topk_group=1,
    rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0),
)
QWEN = dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, mlp_only_layers=[0])

CASES = [
    Case("kimi_k2", "yarn", KIMI, like="deepseek_v3", rewrite=as_kimi),
    Case(
        "kimi_k2",
        "odd-heads-plain-rope-tied",
        dict(KIMI, num_attention_heads=3, num_key_value_heads=3, rope_parameters=dict(rope_theta=5e4),
             tie_word_embeddings=True, norm_topk_prob=False, n_shared_experts=2),
        like="deepseek_v3",
        rewrite=as_kimi,
        mlx_lm_wrong="never ties",
    ),
    Case("bailing_moe", "sigmoid-bias-half-turned", dict(GLM, attention_bias=True), like="glm4_moe", rewrite=as_ling2),
    Case(
        "bailing_moe",
        "groups",
        dict(GLM, n_group=4, topk_group=2),
        like="glm4_moe",
        rewrite=as_ling2,
        mlx_lm_wrong=RACE,
    ),
    Case("bailing_moe", "softmax-tied", dict(QWEN, tie_word_embeddings=True), like="qwen3_moe", rewrite=as_ling),
]
