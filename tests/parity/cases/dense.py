"""The dense decoders and the plain mixtures of experts: Gemma, Phi, Cohere, OLMo, Granite, GLM, GPT and their like."""

from ..reference import Case, multimodal
from .first import LLAMA3, RACE, YARN

EIGHTS = dict(short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[2.0, 3.0, 4.0, 5.0])
LONG = dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.5, **EIGHTS)
HALF = dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.5)
NO_KV = ("num_key_value_heads",)
GPT = ("num_key_value_heads", "intermediate_size")
FALCON = ("num_key_value_heads", "intermediate_size")
MPT = dict(max_seq_len=128)
ODD = dict(hidden_size=96, num_attention_heads=3, num_key_value_heads=1)
MOE = dict(num_experts=8, num_experts_per_tok=3, intermediate_size=32)
LOCAL = dict(num_local_experts=8, num_experts_per_tok=3, intermediate_size=64)
KINDS3 = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
NO_TYPE = "has no such type"
MOE_HALF = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32)
ERNIE = dict(moe_num_experts=8, moe_k=3, moe_intermediate_size=32, moe_num_shared_experts=2)
PHIMOE = dict(num_local_experts=8, num_experts_per_tok=2, intermediate_size=64)
MSCALES = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    original_max_position_embeddings=16,
    short_mscale=1.2,
    long_mscale=1.3,
    short_factor=[1.0 + i / 8 for i in range(8)],
    long_factor=[1.0 + i / 8 for i in range(8)],
)
APERTUS = dict(rope_parameters=LLAMA3, mlp_bias=False, qk_norm=True, post_norm=False)
DOTS = dict(
    head_dim=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=32,
    n_group=2,
    topk_group=1,
    n_shared_experts=2,
    first_k_dense_replace=1,
    routed_scaling_factor=1.7,
)
MINICPM3 = dict(
    num_key_value_heads=4,
    q_lora_rank=24,
    kv_lora_rank=32,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    head_dim=8,
    v_head_dim=16,
    scale_emb=3.0,
    scale_depth=1.1,
    dim_model_base=16,
)
TEMPERED = dict(YARN, llama_4_scaling_beta=0.4, mscale=1.0, mscale_all_dim=1.0, beta_fast=32.0, beta_slow=1.0)
PIXTRAL = dict(
    model_type="pixtral",
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    head_dim=16,
    image_size=28,
    patch_size=14,
)
LLAMA4 = dict(
    head_dim=16,
    num_local_experts=4,
    intermediate_size_mlp=96,
    intermediate_size=64,
    floor_scale=3,
    attn_scale=0.3,
    attention_chunk_size=6,
)
WINDOW = "ignores sliding_window"

CASES = [
    Case("gemma", "plain", dict(head_dim=24), mlx_lm_wrong="has the exact GELU, the model the tanh formula"),
    Case(
        "gemma",
        "biases-exact-gelu",
        dict(head_dim=16, attention_bias=True, hidden_act="gelu_python"),
        mlx_lm_wrong="has no biases",
    ),
    Case("phi", "half-turned", dict(rope_parameters=HALF)),
    Case(
        "phi", "norms-odd-heads", dict(ODD, qk_layernorm=True, hidden_act="gelu"), mlx_lm_wrong="ignores qk_layernorm"
    ),
    Case("phi3", "plain-tied", dict(tie_word_embeddings=True)),
    Case(
        "phi3",
        "longrope-half-turned",
        dict(max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=LONG),
        by_length=True,
        mlx_lm_wrong="has only the long factors",
    ),
    Case(
        "phi3",
        "longrope-unreached",
        dict(max_position_embeddings=128, original_max_position_embeddings=64, rope_parameters=LONG),
        mlx_lm_wrong="has only the long factors",
    ),
    Case("phi3", "window-odd-heads", dict(ODD, sliding_window=5), mlx_lm_wrong=WINDOW),
    Case("starcoder2", "plain-tied", mlx_lm_wrong="has the exact GELU, the model the tanh formula"),
    Case(
        "starcoder2",
        "window-no-biases",
        dict(sliding_window=5, use_bias=False, tie_word_embeddings=False),
        mlx_lm_wrong="always has biases",
    ),
    Case("cohere", "plain"),
    Case("cohere", "norms-biases", dict(use_qk_norm=True, attention_bias=True, logit_scale=0.3)),
    Case("cohere", "untied", dict(tie_word_embeddings=False), mlx_lm_wrong="always ties"),
    Case("cohere2", "pattern", dict(sliding_window=5), mlx_lm_wrong="reads sliding_window_pattern only"),
    Case(
        "cohere2",
        "layer-types",
        dict(sliding_window=4, layer_types=KINDS3, attention_bias=True),
        mlx_lm_wrong="ignores layer_types",
    ),
    Case("olmo", "clipped", dict(clip_qkv=0.9), mlx_lm_wrong="has only the original release's config"),
    Case(
        "olmo",
        "tied-biases",
        dict(tie_word_embeddings=True, attention_bias=True),
        mlx_lm_wrong="has only the original release's config",
    ),
    Case("olmo2", "plain"),
    Case("olmo2", "biases-tied-odd-heads", dict(ODD, attention_bias=True, tie_word_embeddings=True)),
    Case(
        "olmo3",
        "window-yarn",
        dict(
            sliding_window=5,
            rope_parameters=dict(
                full_attention=dict(YARN, rope_theta=500000.0),
                sliding_attention=dict(rope_type="default", rope_theta=500000.0),
            ),
        ),
    ),
    Case("olmo3", "layer-types", dict(sliding_window=4, layer_types=KINDS3, attention_bias=True)),
    Case("olmoe", "plain", MOE),
    Case("olmoe", "clipped-normalised", dict(MOE, clip_qkv=0.9, norm_topk_prob=True), mlx_lm_wrong="ignores clip_qkv"),
    Case(
        "granite",
        "multipliers",
        dict(
            intermediate_size=128,
            embedding_multiplier=3.0,
            attention_multiplier=0.2,
            residual_multiplier=0.4,
            logits_scaling=2.5,
            attention_bias=True,
            mlp_bias=True,
        ),
    ),
    Case(
        "granite",
        "plain-tied-llama3",
        dict(intermediate_size=128, attention_multiplier=0.25, tie_word_embeddings=True, rope_parameters=LLAMA3),
    ),
    Case(
        "granitemoe",
        "multipliers",
        dict(LOCAL, embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=2.5),
    ),
    Case("granitemoe", "biases-tied", dict(LOCAL, attention_bias=True, tie_word_embeddings=True)),
    Case("glm", "plain", dict(head_dim=16), mlx_lm_wrong="ignores partial_rotary_factor"),
    Case(
        "glm",
        "whole-heads-no-bias",
        dict(head_dim=24, attention_bias=False, rope_parameters=dict(HALF, partial_rotary_factor=1.0)),
    ),
    Case("glm4", "plain", dict(head_dim=16)),
    Case(
        "glm4",
        "whole-heads-no-bias-tied",
        dict(
            head_dim=24,
            attention_bias=False,
            tie_word_embeddings=True,
            rope_parameters=dict(HALF, partial_rotary_factor=1.0),
        ),
        mlx_lm_wrong="ignores tie_word_embeddings",
    ),
    Case("stablelm", "quarter-turned", dict(use_qkv_bias=True)),
    Case("stablelm", "parallel-norms", dict(use_parallel_residual=True, qk_layernorm=True, rope_parameters=HALF)),
    Case("stablelm", "norms-tied", dict(qk_layernorm=True, tie_word_embeddings=True), mlx_lm_wrong="never ties"),
    Case("gpt2", "plain", dict(n_inner=96), drop=GPT, mlx_lm_wrong="ignores n_inner"),
    Case(
        "gpt2",
        "scaled-by-layer-untied",
        dict(
            n_inner=96,
            scale_attn_by_inverse_layer_idx=True,
            scale_attn_weights=False,
            tie_word_embeddings=False,
            activation_function="relu",
        ),
        drop=GPT,
        mlx_lm_wrong="always scales, ties and has GELU",
    ),
    Case("gpt2", "four-times-wide", dict(n_ctx=128), drop=GPT),
    Case("gpt_bigcode", "one-key-for-all", dict(n_inner=96), drop=GPT, mlx_lm_wrong="has the exact GELU"),
    Case(
        "gpt_bigcode",
        "keys-for-each-untied",
        dict(multi_query=False, n_inner=96, tie_word_embeddings=False),
        drop=GPT,
        mlx_lm_wrong="takes all queries first, the checkpoint goes head by head",
    ),
    Case("gpt_neox", "parallel", dict(intermediate_size=256, hidden_act="gelu_new"), drop=NO_KV),
    Case(
        "gpt_neox",
        "one-after-the-other",
        dict(intermediate_size=256, use_parallel_residual=False, rope_parameters=HALF),
        drop=NO_KV,
        mlx_lm_wrong="has the tanh formula, the model the exact GELU",
    ),
    Case(
        "gpt_neox",
        "tied-no-bias-odd-heads",
        dict(
            hidden_size=96, num_attention_heads=3, attention_bias=False, tie_word_embeddings=True, hidden_act="gelu_new"
        ),
        drop=NO_KV,
        mlx_lm_wrong="always has biases",
    ),
    Case("falcon", "one-key-for-all", drop=FALCON, mlx_lm_wrong=NO_TYPE),
    Case(
        "falcon",
        "groups-two-norms",
        dict(new_decoder_architecture=True, num_kv_heads=2, bias=True, tie_word_embeddings=False, ffn_hidden_size=96),
        drop=FALCON,
        mlx_lm_wrong=NO_TYPE,
    ),
    Case(
        "falcon",
        "groups-one-norm",
        dict(new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1),
        drop=FALCON,
        mlx_lm_wrong=NO_TYPE,
    ),
    Case(
        "falcon",
        "alibi-sequential",
        dict(alibi=True, parallel_attn=False, multi_query=False, bias=True, hidden_size=96, num_attention_heads=6),
        drop=FALCON,
        mlx_lm_wrong=NO_TYPE,
        attention="sdpa",
    ),  # eager adds the bias twice
    Case("mpt", "plain", MPT, drop=FALCON, mlx_lm_wrong=NO_TYPE),
    Case(
        "mpt",
        "clipped-odd-heads-untied",
        dict(
            MPT,
            hidden_size=96,
            num_attention_heads=6,
            tie_word_embeddings=False,
            attn_config=dict(clip_qkv=0.9, softmax_scale=0.3),
        ),
        drop=FALCON,
        mlx_lm_wrong=NO_TYPE,
    ),
    Case("helium", "plain", dict(head_dim=16)),
    Case(
        "helium",
        "biases-tied",
        dict(head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        mlx_lm_wrong="has no biases in the MLP",
    ),
    Case("exaone4", "pattern", dict(head_dim=16, sliding_window=5), mlx_lm_wrong="takes the pattern as letters only"),
    Case(
        "exaone4",
        "letters",
        dict(
            head_dim=16,
            sliding_window=5,
            sliding_window_pattern="LLLG",
            layer_types=["sliding_attention"] * 3 + ["full_attention"],
        ),
    ),
    Case(
        "exaone4",
        "no-window-llama3-tied",
        dict(
            head_dim=16,
            sliding_window=None,
            layer_types=["full_attention"] * 4,
            rope_parameters=LLAMA3,
            tie_word_embeddings=True,
        ),
    ),
    Case("seed_oss", "plain", dict(head_dim=24)),
    Case(
        "seed_oss",
        "out-bias-tied",
        dict(head_dim=16, attention_out_bias=True, mlp_bias=True, attention_bias=False, tie_word_embeddings=True),
        mlx_lm_wrong="can't be quantized when it is tied",
    ),
    Case("apertus", "plain", dict(APERTUS)),
    Case(
        "apertus",
        "biases-tied",
        dict(APERTUS, attention_bias=True, tie_word_embeddings=True),
        mlx_lm_wrong="has no biases",
    ),
    Case("nanochat", "plain", mlx_lm_wrong="reads the original release's names only"),
    Case(
        "nanochat",
        "softcap-odd-heads-tied",
        dict(ODD, final_logit_softcapping=2.0, tie_word_embeddings=True),
        mlx_lm_wrong="reads the original release's names only",
    ),
    Case("hunyuan_v1_dense", "plain", dict(head_dim=24)),
    Case(
        "hunyuan_v1_dense",
        "alpha-biases-tied",
        dict(
            head_dim=16,
            attention_bias=True,
            tie_word_embeddings=True,
            rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=50.0, factor=1.0),
        ),
    ),
    Case("mixtral", "plain", LOCAL),
    Case(
        "mixtral",
        "window-tied-head-dim",
        dict(LOCAL, sliding_window=5, tie_word_embeddings=True, head_dim=24),
        mlx_lm_wrong=WINDOW,
    ),
    Case("qwen2_moe", "plain", dict(MOE_HALF, shared_expert_intermediate_size=48)),
    Case(
        "qwen2_moe",
        "normalised-some-dense-window",
        dict(
            MOE_HALF,
            shared_expert_intermediate_size=48,
            norm_topk_prob=True,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            qkv_bias=False,
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=2,
        ),
        mlx_lm_wrong="has experts in every layer",
    ),
    Case("phimoe", "plain", PHIMOE, mlx_lm_wrong="needs longrope"),
    Case(
        "phimoe",
        "longrope-biases-window",
        dict(
            PHIMOE,
            attention_bias=True,
            lm_head_bias=True,
            sliding_window=9,
            rope_parameters=MSCALES,
            router_jitter_noise=0.1,
        ),
        by_length=True,
        mlx_lm_wrong=WINDOW,
    ),
    Case("ernie4_5", "plain", dict(head_dim=24)),
    Case("ernie4_5", "biases-untied", dict(head_dim=16, use_bias=True, tie_word_embeddings=False)),
    Case("ernie4_5_moe", "steered", ERNIE, mlx_lm_wrong="drops the steering bias"),
    Case(
        "ernie4_5_moe",
        "interval-no-shared",
        dict(
            ERNIE,
            moe_num_shared_experts=0,
            moe_layer_interval=2,
            moe_layer_end_index=2,
            moe_layer_start_index=0,
            tie_word_embeddings=False,
        ),
        mlx_lm_wrong="drops the steering bias",
    ),
    Case("dots1", "groups", dict(DOTS, sliding_window=None), mlx_lm_wrong=RACE),
    Case("dots1", "one-group", dict(DOTS, sliding_window=None, n_group=1)),
    Case(
        "dots1",
        "windows-biases-tied",
        dict(
            DOTS,
            sliding_window=5,
            max_window_layers=2,
            attention_bias=True,
            tie_word_embeddings=True,
            norm_topk_prob=True,
        ),
        mlx_lm_wrong=WINDOW,
    ),
    Case(
        "minicpm3",
        "longrope",
        dict(
            MINICPM3,
            rope_parameters=dict(
                MSCALES,
                short_mscale=None,
                long_mscale=None,
                short_factor=[1.0, 1.1, 1.2, 1.3],
                long_factor=[2.0, 3.0, 4.0, 5.0],
            ),
        ),
        by_length=True,
        mlx_lm_wrong="has only the long factors",
    ),
    Case(
        "minicpm3",
        "yarn-untied-biases",
        dict(
            MINICPM3,
            attention_bias=True,
            tie_word_embeddings=False,
            q_lora_rank=None,
            rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=0.8),
        ),
        mlx_lm_wrong="needs longrope and q_lora_rank",
    ),
    Case("ministral3", "tempered", dict(head_dim=16, rope_parameters=TEMPERED)),
    Case(
        "ministral3",
        "window-tied",
        dict(head_dim=24, sliding_window=5, tie_word_embeddings=True, rope_parameters=TEMPERED),
        mlx_lm_wrong="ignores sliding_window without layer_types",
    ),
    Case(
        "mistral3",
        "mistral-beside-vision",
        dict(model_type="mistral", head_dim=16, vision_config=PIXTRAL, sliding_window=None, tie_word_embeddings=False),
        make=multimodal,
    ),
    Case(
        "mistral3",
        "ministral-beside-vision",
        dict(model_type="ministral3", head_dim=16, vision_config=PIXTRAL, rope_parameters=TEMPERED),
        make=multimodal,
        mlx_lm_wrong="looks for the tying in text_config only",
    ),
    Case(
        "llama4_text",
        "chunks-experts",
        dict(LLAMA4, num_experts_per_tok=2, no_rope_layer_interval=3),
        mlx_lm_wrong="has the dense sizes only",
    ),
    Case(
        "llama4_text",
        "every-other-dense-tied",
        dict(
            LLAMA4,
            interleave_moe_layer_step=2,
            use_qk_norm=False,
            attn_temperature_tuning=False,
            attention_bias=True,
            tie_word_embeddings=True,
            no_rope_layers=[1, 0, 1, 0],
        ),
        mlx_lm_wrong="has the dense sizes only",
    ),
    Case(
        "llama4_text",
        "dense",
        dict(LLAMA4, moe_layers=[], tie_word_embeddings=True, attention_chunk_size=64, attn_temperature_tuning=False),
        mlx_lm_wrong="norms the heads of layers without positions too",
    ),
    Case("bitnet", "dense", mlx_lm_wrong="expects packed weights, on Metal"),
    Case(
        "bitnet",
        "dense-tied-biases",
        dict(attention_bias=True, tie_word_embeddings=True),
        mlx_lm_wrong="expects packed weights, on Metal",
    ),
]
