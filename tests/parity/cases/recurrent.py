"""Recurrent and hybrid decoders: gated delta nets, Mamba 1 and 2, short convolutions, lightning attention."""

from ..reference import Case, multimodal

DELTA = dict(
    head_dim=16,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=24,
    linear_value_head_dim=16,
    linear_conv_kernel_dim=4,
)
SHARED = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, shared_expert_intermediate_size=32)
MROPE = dict(
    rope_type="default", rope_theta=5e4, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True
)
VISION = dict(
    depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=64, num_position_embeddings=16
)
NO_SUCH_TYPE = "has no such type"
# Few layers where norms of few numbers amplify every rounding.
KINDS2 = ["full_attention", "linear_attention"]
NO_HEADS = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
SSM = dict(num_heads=16, head_dim=8, state_size=8, n_groups=1, intermediate_size=128)
H1 = dict(mamba_d_ssm=48, mamba_n_heads=6, mamba_d_head=8, mamba_d_state=8, head_dim=16)
MUP = dict(
    embedding_multiplier=5.0,
    lm_head_multiplier=0.3,
    attention_out_multiplier=0.9,
    ssm_in_multiplier=1.25,
    ssm_out_multiplier=0.24,
    ssm_multipliers=[0.35, 0.25, 0.4, 0.5, 0.6],
    mlp_multipliers=[0.88, 0.6],
)
JAMBA = dict(
    num_experts=4, num_experts_per_tok=2, attn_layer_period=3, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=6
)
LFM = dict(
    layer_types=["conv", "full_attention", "conv", "conv"],
    intermediate_size=100,
    block_multiple_of=32,
    block_dim=64,  # mlx-lm asks for it
)
LFM_MOE = dict(
    layer_types=["conv", "full_attention", "conv", "full_attention"],
    num_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
    num_dense_layers=1,
)
GRANITE = dict(
    layer_types=["linear_attention", "full_attention"] * 2,
    mamba_n_heads=16,
    mamba_d_state=8,
    shared_intermediate_size=32,
    num_local_experts=4,
    embedding_multiplier=3.0,
    attention_multiplier=0.2,
    residual_multiplier=0.4,
    logits_scaling=2.5,
)

CASES = [
    Case("qwen3_next", "delta-moe", dict(DELTA, **SHARED)),
    Case(
        "qwen3_next",
        "odd-types-biases-tied",
        dict(
            DELTA,
            **SHARED,
            layer_types=["full_attention", "linear_attention"] * 2,
            linear_num_key_heads=4,
            linear_conv_kernel_dim=3,
            norm_topk_prob=False,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            attention_bias=True,
            tie_word_embeddings=True,
        ),
        mlx_lm_wrong="reads full_attention_interval only",
    ),
    Case("qwen3_5_text", "tied", dict(DELTA, tie_word_embeddings=True), mlx_lm_wrong=NO_SUCH_TYPE),
    Case(
        "qwen3_5_text",
        "biases-odd-heads",
        dict(DELTA, num_attention_heads=6, num_key_value_heads=3, linear_num_value_heads=6, linear_num_key_heads=3,
             attention_bias=True, layer_types=KINDS2[::-1] * 2),
        mlx_lm_wrong=NO_SUCH_TYPE,
    ),
    Case(
        "qwen3_5_moe_text",
        "pattern-tied",
        dict(DELTA, **SHARED, full_attention_interval=2, num_hidden_layers=2, tie_word_embeddings=True),
        mlx_lm_wrong=NO_SUCH_TYPE,
    ),
    Case(
        "qwen3_5",
        "beside-vision-tied-short-kernel",
        dict(DELTA, rope_parameters=MROPE, vision_config=VISION, tie_word_embeddings=True, linear_conv_kernel_dim=3,
             num_hidden_layers=2, layer_types=KINDS2),
        make=multimodal,
        mlx_lm_wrong="takes no layer_types",
    ),
    Case("qwen3_5", "beside-vision", dict(DELTA, rope_parameters=MROPE, vision_config=VISION), make=multimodal),
    Case(
        "qwen3_5_moe_text",
        "types",
        dict(DELTA, **SHARED, num_hidden_layers=2, layer_types=KINDS2, attention_bias=True),
        mlx_lm_wrong=NO_SUCH_TYPE,
    ),
    Case(
        "qwen3_5_moe",
        "beside-vision",
        dict(
            DELTA,
            **SHARED,
            num_hidden_layers=2,
            layer_types=KINDS2[::-1],
            rope_parameters=MROPE,
            vision_config=VISION,
        ),
        make=multimodal,
        mlx_lm_wrong="reads experts in one tensor only",
    ),
    Case(
        "qwen3_5_moe",
        "beside-vision-tied-biases",
        dict(DELTA, **SHARED, num_hidden_layers=2, layer_types=KINDS2, rope_parameters=MROPE, vision_config=VISION,
             tie_word_embeddings=True, attention_bias=True),
        make=multimodal,
        mlx_lm_wrong="reads experts in one tensor only",
    ),
    Case("falcon_h1", "multipliers", dict(H1, **MUP)),
    Case("falcon_h1", "tied-no-conv-bias", dict(H1, **MUP, tie_word_embeddings=True, mamba_conv_bias=False)),
    Case("falcon_h1", "keys-multiplied", dict(H1, **MUP, key_multiplier=0.4), mlx_lm_wrong="loses key_multiplier"),
    Case(
        "falcon_h1",
        "all-multipliers-biases-groups",
        dict(
            H1,
            **MUP,
            key_multiplier=0.4,
            attention_in_multiplier=1.3,
            mamba_n_groups=2,
            mamba_rms_norm=True,
            mamba_norm_before_gate=True,
            mamba_proj_bias=True,
            projectors_bias=True,
            attention_bias=True,
            mlp_bias=True,
            time_step_limit=[0.05, 0.09],
        ),
        mlx_lm_wrong="loses key_multiplier, the multipliers of biases, groups and time_step_limit",
    ),
    Case(
        "falcon_h1",
        "gate-before-norm",
        dict(
            H1,
            mamba_rms_norm=True,
            mamba_norm_before_gate=False,
            mamba_d_head="auto",
            mamba_n_heads=3,
            mamba_d_conv=3,
        ),
        mlx_lm_wrong="can't read mamba_d_head of auto",
    ),
    Case("mamba2", "plain", SSM, NO_HEADS),
    Case(
        "mamba2",
        "groups-biases-tied",
        dict(SSM, n_groups=4, use_bias=True, tie_word_embeddings=True, conv_kernel=3, time_step_limit=[0.05, 0.09]),
        NO_HEADS,
        mlx_lm_wrong="normalises all groups as one",
    ),
    Case("mamba", "plain", dict(state_size=8, time_step_rank=5), NO_HEADS),
    Case(
        "mamba",
        "biases-untied-odd-expand",
        dict(use_bias=True, use_conv_bias=False, conv_kernel=3, expand=3, tie_word_embeddings=False),
        NO_HEADS,
    ),
    Case("falcon_mamba", "plain", dict(num_hidden_layers=2, state_size=16, time_step_rank=16), NO_HEADS),
    Case(
        "falcon_mamba",
        "eps-untied",
        dict(
            num_hidden_layers=2, state_size=16, time_step_rank=16, mixer_rms_eps=0.1, tie_word_embeddings=False
        ),
        NO_HEADS,
    ),
    Case("jamba", "experts", JAMBA, mlx_lm_wrong="takes the softmax of the chosen experts only"),
    Case(
        "jamba",
        "dense-biases",
        dict(JAMBA, num_experts=1, mamba_proj_bias=True, mamba_conv_bias=False, mamba_d_conv=3),
    ),
    Case(
        "jamba",
        "odd-periods-tied",
        dict(JAMBA, expert_layer_period=3, expert_layer_offset=0, attn_layer_period=2, tie_word_embeddings=True),
        mlx_lm_wrong="puts experts into other layers",
    ),
    Case("lfm2", "convolutions", LFM),
    Case(
        "lfm2",
        "biases-untied",
        dict(
            layer_types=["full_attention", "conv"] * 2,
            conv_bias=True,
            conv_L_cache=4,
            block_auto_adjust_ff_dim=False,
            tie_word_embeddings=False,
        ),
        mlx_lm_wrong="ties the head always",
    ),
    Case("lfm2_moe", "biased-choice", LFM_MOE),
    Case(
        "lfm2_moe",
        "no-bias-scaled",
        dict(LFM_MOE, use_expert_bias=False, norm_topk_prob=False, routed_scaling_factor=1.7, conv_bias=True),
    ),
    Case("granitemoehybrid", "experts", dict(GRANITE, position_embedding_type="nope")),
    Case("granitemoehybrid", "groups", dict(GRANITE, mamba_n_groups=2), mlx_lm_wrong="normalises all groups as one"),
    Case(
        "granitemoehybrid",
        "dense-rope-biases-tied",
        dict(
            GRANITE,
            num_local_experts=0,
            shared_intermediate_size=96,
            position_embedding_type="rope",
            attention_bias=True,
            mamba_proj_bias=True,
            mamba_conv_bias=False,
            mamba_d_conv=3,
            time_step_limit=[0.05, 0.09],
            tie_word_embeddings=True,
        ),
    ),
]
