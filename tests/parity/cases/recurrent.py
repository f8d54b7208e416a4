"""Recurrent and hybrid decoders: gated delta nets, Mamba 1 and 2, short convolutions, lightning attention."""

from ..reference import Case

DELTA = dict(
    head_dim=16,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=12,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
)
SHARED = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, shared_expert_intermediate_size=32)

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
]
