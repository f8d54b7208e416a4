"""Decoders whose layers share keys and values and get inputs of their own: Gemma 3n and Gemma 4."""

from ..reference import Case

# Scores have no scale here: with heads of tiny models any rounding would be amplified without end.
TAME = dict(q_norm=(0.3, 0.7), k_norm=(0.3, 0.7), layer_scalar=(0.6, 1.4))
NO_SUCH_TYPE = "has no such type"
KINDS = ["sliding_attention", "full_attention"] * 3
N = dict(
    num_hidden_layers=6,
    layer_types=KINDS,
    head_dim=16,
    sliding_window=5,
    num_kv_shared_layers=3,
    vocab_size_per_layer_input=97,
    hidden_size_per_layer_input=8,
    laurel_rank=6,
)
FOUR = dict(
    num_hidden_layers=6,
    layer_types=KINDS,
    head_dim=16,
    global_head_dim=24,
    sliding_window=5,
    vocab_size_per_layer_input=97,
    hidden_size_per_layer_input=8,
)
MOE = dict(enable_moe_block=True, num_experts=8, top_k_experts=3, moe_intermediate_size=32)

CASES = [
    Case(
        "gemma3n_text",
        "shared-sparse",
        dict(N, activation_sparsity_pattern=[0.9, 0.5, 0.0] * 2, intermediate_size=[64, 96] * 3),
        mlx_lm_wrong=NO_SUCH_TYPE,
        values=TAME,
    ),
    Case(
        "gemma3n_text",
        "own-keys-small-table",
        dict(
            N,
            num_kv_shared_layers=0,
            vocab_size_per_layer_input=60,
            altup_num_inputs=3,
            altup_active_idx=1,
            altup_correct_scale=False,
            final_logit_softcapping=12.0,
            attention_bias=True,
            tie_word_embeddings=False,
        ),
        mlx_lm_wrong=NO_SUCH_TYPE,
        values=TAME,
    ),
    Case(
        "gemma4_text",
        "shared-wide",
        dict(FOUR, num_kv_shared_layers=3, use_double_wide_mlp=True, final_logit_softcapping=20.0),
        values=TAME,
    ),
    Case(
        "gemma4_text",
        "experts-keys-as-values",
        dict(
            FOUR,
            **MOE,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            hidden_size_per_layer_input=0,
            final_logit_softcapping=20.0,
        ),
        values=TAME,
    ),
    Case(
        "gemma4_text",
        "biases-untied",
        dict(FOUR, **MOE, attention_bias=True, tie_word_embeddings=False, num_attention_heads=6, num_key_value_heads=3),
        mlx_lm_wrong="has no attention biases",
        values=TAME,
    ),
]
