"""Experts and latent attention: MiniMax, AFMoE, DeepSeek, GLM 4.7 Flash, EXAONE MoE, MiMo V2 Flash."""

from ..reference import Case
from .first import GROUPED, LATENT, RACE, YARN

LOCAL = dict(head_dim=16, num_local_experts=8, num_experts_per_tok=3)
FACTORS = dict(
    full_attn_alpha_factor=1.5,
    full_attn_beta_factor=0.7,
    linear_attn_alpha_factor=1.3,
    linear_attn_beta_factor=0.8,
    mlp_alpha_factor=1.2,
    mlp_beta_factor=0.9,
)
HALF = dict(rope_type="default", rope_theta=1e5, partial_rotary_factor=0.5)
KINDS = ["sliding_attention", "full_attention"] * 2
AFMOE = dict(head_dim=16, sliding_window=5, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32)
PLAIN = dict(GROUPED, n_group=1, topk_group=1)
MLA = {k: v for k, v in dict(PLAIN, **LATENT, q_lora_rank=32).items() if k != "first_k_dense_replace"}
INDEX = dict(index_topk=7, index_head_dim=16, index_n_heads=16)
EXAONE = dict(
    head_dim=16,
    sliding_window=5,
    sliding_window_pattern=2,
    num_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
)
MIMO = dict(
    head_dim=16,
    v_head_dim=12,
    sliding_window=6,
    layer_types=["full_attention", "sliding_attention"] * 2,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
    rope_parameters=dict(full_attention=HALF, sliding_attention=dict(HALF, rope_theta=1e4)),
)
MSCALE = dict(YARN, mscale=1.0, mscale_all_dim=0.7)
NO_YARN = "asks for rope_scaling"
OTHER = "builds MiniMax M2 under this name"

CASES = [
    Case("minimax", "lightning", dict(LOCAL, **FACTORS), mlx_lm_wrong=OTHER),
    Case(
        "minimax",
        "types-odd-heads-small-blocks",
        dict(
            LOCAL,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=12,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
            block_size=8,
            tie_word_embeddings=True,
        ),
        mlx_lm_wrong=OTHER,
    ),
    Case("minimax_m2", "half-turned", dict(LOCAL, rope_parameters=HALF, shared_intermediate_size=0, rotary_dim=8)),
    Case("minimax_m2", "whole-turned-tied", dict(LOCAL, tie_word_embeddings=True), mlx_lm_wrong="asks for rotary_dim"),
    Case("afmoe", "window-mup", dict(AFMOE, layer_types=KINDS, mup_enabled=True, route_scale=2.5)),
    Case(
        "afmoe",
        "pattern-biases-tied",
        dict(AFMOE, global_attn_every_n_layers=2, num_dense_layers=2, attention_bias=True, tie_word_embeddings=True),
        mlx_lm_wrong="has no attention biases",
    ),
    Case("glm4_moe_lite", "plain", MLA),
    Case(
        "glm4_moe_lite",
        "types-groups-yarn",
        dict(
            MLA,
            n_group=4,
            topk_group=2,
            mlp_layer_types=["sparse", "dense", "sparse"],
            attention_bias=True,
            rope_parameters=MSCALE,
        ),
        mlx_lm_wrong=RACE,
    ),
    Case("deepseek_v2", "greedy", dict(PLAIN, **LATENT, q_lora_rank=32), mlx_lm_wrong=NO_YARN),
    Case("deepseek_v2", "yarn", dict(PLAIN, **LATENT, q_lora_rank=32, rope_parameters=MSCALE)),
    Case(
        "deepseek_v2", "no-q-rank", dict(PLAIN, **LATENT, q_lora_rank=None, attention_bias=True), mlx_lm_wrong=NO_YARN
    ),
    Case(
        "deepseek_v2",
        "groups-yarn",
        dict(
            GROUPED,
            **LATENT,
            q_lora_rank=None,
            topk_method="group_limited_greedy",
            rope_parameters=MSCALE,
        ),
    ),
    Case("deepseek_v32", "indexed", dict(PLAIN, **LATENT, **INDEX, q_lora_rank=32)),
    Case(
        "deepseek_v32",
        "indexed-groups-yarn",
        dict(GROUPED, **LATENT, **INDEX, q_lora_rank=32, rope_parameters=MSCALE),
        mlx_lm_wrong=RACE,
    ),
    Case("deepseek_v32", "all-within-reach", dict(PLAIN, **LATENT, **INDEX, q_lora_rank=32) | dict(index_topk=64)),
    Case("exaone_moe", "window", dict(EXAONE, is_moe_layer=[False, True, True, True])),
    Case(
        "exaone_moe",
        "groups-no-positions-tied",
        dict(
            EXAONE,
            layer_types=["full_attention"] * 4,
            mlp_layer_types=["sparse", "dense", "sparse", "dense"],
            n_group=4,
            topk_group=2,
            num_shared_experts=2,
            norm_topk_prob=False,
            tie_word_embeddings=True,
        ),
        mlx_lm_wrong=RACE,
    ),
    Case("mimo_v2_flash", "sinks", MIMO, mlx_lm_wrong="sees a token less in its windows"),
    Case(
        "mimo_v2_flash",
        "odd-heads-groups-biases",
        dict(
            MIMO,
            num_attention_heads=6,
            num_key_value_heads=1,
            mlp_layer_types=["sparse", "dense"] * 2,
            attention_value_scale=None,
            n_group=4,
            topk_group=2,
            routed_scaling_factor=1.7,
            attention_bias=True,
        ),
        mlx_lm_wrong=RACE,
    ),
]
