"""Llama, Mistral, SmolLM 3, Qwen, Gemma, GLM 4.5, DeepSeek V3, Nemotron-H and gpt-oss."""

from ..reference import Case

YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=50000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
LONG = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    factor=4.0,
    original_max_position_embeddings=16,
    short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    long_factor=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
)
GEMMA = dict(head_dim=16, sliding_window=5, query_pre_attn_scalar=20)
MOE = dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32)
GROUPED = dict(
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
    n_group=4,
    topk_group=2,
    first_k_dense_replace=1,
    num_hidden_layers=3,
    routed_scaling_factor=1.7,
)
LATENT = dict(kv_lora_rank=32, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, num_key_value_heads=4)
SINKS = dict(head_dim=16, num_local_experts=8, num_experts_per_tok=3, sliding_window=5)
HYBRID = dict(
    head_dim=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
    moe_shared_expert_intermediate_size=32,
    ssm_state_size=8,
    mamba_num_heads=6,
    mamba_head_dim=8,
    n_groups=2,
)
LAYERS = ("num_hidden_layers",)
RACE = "leaves the experts of losing groups in the race, at a score of 0"

CASES = [
    Case("llama", "plain"),
    Case(
        "llama",
        "llama3-rope-biases-tied",
        dict(rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    ),
    Case(
        "llama", "odd-heads-head-dim", dict(hidden_size=96, num_attention_heads=3, num_key_value_heads=1, head_dim=24)
    ),
    Case("llama", "linear-rope", dict(rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=3.0))),
    Case(
        "llama", "yarn-truncate-off", dict(rope_parameters=dict(YARN, truncate=False)), mlx_lm_wrong="ignores truncate"
    ),
    Case(
        "llama",
        "dynamic-rope",
        dict(max_position_embeddings=16, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)),
        by_length=True,
        mlx_lm_wrong="has no dynamic rope",
    ),
    Case(
        "llama",
        "longrope",
        dict(max_position_embeddings=64, rope_parameters=LONG),
        by_length=True,
        mlx_lm_wrong="has only the long factors",
    ),
    Case("mistral", "window", dict(sliding_window=5), mlx_lm_wrong="ignores sliding_window"),
    Case(
        "mistral",
        "no-window-theta",
        dict(sliding_window=None, rope_parameters=dict(rope_theta=1e6, rope_type="default")),
    ),
    Case("smollm3", "nope-layers", dict(no_rope_layer_interval=2)),
    Case(
        "smollm3",
        "untied-biases",
        dict(tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
        mlx_lm_wrong="untested with biases",
    ),
    Case("qwen2", "plain-tied", dict(tie_word_embeddings=True)),
    Case(
        "qwen2",
        "window",
        dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
        mlx_lm_wrong="ignores sliding_window",
    ),
    Case("qwen3", "head-dim-24", dict(head_dim=24)),
    Case("qwen3", "yarn-tied", dict(head_dim=16, rope_parameters=YARN, tie_word_embeddings=True)),
    Case(
        "qwen3",
        "window-bias",
        dict(head_dim=16, use_sliding_window=True, sliding_window=5, max_window_layers=2, attention_bias=True),
        mlx_lm_wrong="ignores sliding_window",
    ),
    Case("qwen3_moe", "normalised", dict(MOE, norm_topk_prob=True)),
    Case(
        "qwen3_moe", "sparse-every-other", dict(MOE, norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[3])
    ),
    Case("gemma2", "window-softcaps", GEMMA, mlx_lm_wrong="ignores sliding_window"),
    Case(
        "gemma2",
        "no-softcaps",
        dict(GEMMA, attn_logit_softcapping=None, final_logit_softcapping=None),
        mlx_lm_wrong="ignores sliding_window",
    ),
    Case(
        "gemma3_text",
        "pattern-2",
        dict(GEMMA, layer_types=["sliding_attention", "full_attention"] * 2),
        mlx_lm_wrong="reads sliding_window_pattern only",
    ),
    Case(
        "gemma3_text",
        "linear-rope-softcap",
        dict(
            GEMMA,
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
            final_logit_softcapping=20.0,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                sliding_attention=dict(rope_type="default", rope_theta=1e4),
            ),
        ),
        mlx_lm_wrong="reads sliding_window_pattern only",
    ),
    Case(
        "glm4_moe",
        "groups-qk-norm",
        dict(GROUPED, head_dim=16, use_qk_norm=True, attention_bias=True),
        mlx_lm_wrong=RACE,
    ),
    Case(
        "glm4_moe",
        "no-groups",
        dict(GROUPED, head_dim=16, n_group=1, topk_group=1, norm_topk_prob=False, n_shared_experts=2),
    ),
    Case(
        "deepseek_v3",
        "yarn-mscale",
        dict(GROUPED, **LATENT, q_lora_rank=32, rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=0.7)),
        mlx_lm_wrong=RACE,
    ),
    Case("deepseek_v3", "no-groups", dict(GROUPED, **LATENT, q_lora_rank=32, n_group=1, topk_group=1)),
    Case(
        "deepseek_v3",
        "no-q-rank",
        dict(GROUPED, **LATENT, q_lora_rank=None, n_group=1, topk_group=1, attention_bias=True, rope_interleave=False),
        mlx_lm_wrong="ignores rope_interleave",
    ),
    Case(
        "gpt_oss",
        "yarn",
        dict(SINKS, rope_parameters=dict(YARN, truncate=False, beta_fast=32.0, beta_slow=1.0)),
        mlx_lm_wrong="ignores truncate",
    ),
    Case(
        "gpt_oss",
        "limits",
        dict(
            SINKS,
            num_attention_heads=6,
            num_key_value_heads=3,
            swiglu_limit=1.5,
            swiglu_alpha=1.3,
            rope_parameters=dict(rope_type="default", rope_theta=5000.0),
        ),
        mlx_lm_wrong="ignores swiglu_limit",
    ),
    Case("nemotron_h", "moe", dict(HYBRID, hybrid_override_pattern="M-*EM"), LAYERS),
    Case(
        "nemotron_h",
        "dense-biases",
        dict(HYBRID, hybrid_override_pattern="MM*-M*", use_bias=True, mlp_bias=True, conv_kernel=3),
        LAYERS,
        mlx_lm_wrong="reads mamba_proj_bias for use_bias",
    ),
    Case(
        "nemotron_h",
        "latent-experts",
        dict(HYBRID, hybrid_override_pattern="ME*", moe_latent_size=32, n_group=2, topk_group=1),
        LAYERS,
        mlx_lm_wrong=RACE,
    ),
]
