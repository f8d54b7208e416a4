"""The dense decoders and the plain mixtures of experts: Gemma, Phi, Cohere, OLMo, Granite, GLM, GPT and their like."""

from ..reference import Case
from .first import LLAMA3, YARN

EIGHTS = dict(short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[2.0, 3.0, 4.0, 5.0])
LONG = dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.5, **EIGHTS)
HALF = dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.5)
NO_KV = ("num_key_value_heads",)
ODD = dict(hidden_size=96, num_attention_heads=3, num_key_value_heads=1)
MOE = dict(num_experts=8, num_experts_per_tok=3, intermediate_size=32)
LOCAL = dict(num_local_experts=8, num_experts_per_tok=3, intermediate_size=64)
KINDS3 = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
WINDOW = "ignores sliding_window"

CASES = [
    Case("gemma", "plain", dict(head_dim=24), mlx_lm_wrong="has the exact GELU, the model the tanh formula"),
    Case("gemma", "biases-exact-gelu", dict(head_dim=16, attention_bias=True, hidden_act="gelu_python"),
         mlx_lm_wrong="has no biases"),
    Case("phi", "half-turned", dict(rope_parameters=HALF)),
    Case("phi", "norms-odd-heads", dict(ODD, qk_layernorm=True, hidden_act="gelu"), mlx_lm_wrong="ignores qk_layernorm"),
    Case("phi3", "plain-tied", dict(tie_word_embeddings=True)),
    Case("phi3", "longrope-half-turned", dict(max_position_embeddings=64, original_max_position_embeddings=16,
         rope_parameters=LONG), by_length=True, mlx_lm_wrong="has only the long factors"),
    Case("phi3", "longrope-unreached", dict(max_position_embeddings=128, original_max_position_embeddings=64,
         rope_parameters=LONG), mlx_lm_wrong="has only the long factors"),
    Case("phi3", "window-odd-heads", dict(ODD, sliding_window=5), mlx_lm_wrong=WINDOW),
    Case("starcoder2", "plain-tied", mlx_lm_wrong="has the exact GELU, the model the tanh formula"),
    Case("starcoder2", "window-no-biases", dict(sliding_window=5, use_bias=False, tie_word_embeddings=False),
         mlx_lm_wrong="always has biases"),
    Case("cohere", "plain"),
    Case("cohere", "norms-biases", dict(use_qk_norm=True, attention_bias=True, logit_scale=0.3)),
    Case("cohere", "untied", dict(tie_word_embeddings=False), mlx_lm_wrong="always ties"),
    Case("cohere2", "pattern", dict(sliding_window=5), mlx_lm_wrong="reads sliding_window_pattern only"),
    Case("cohere2", "layer-types", dict(sliding_window=4, layer_types=KINDS3, attention_bias=True),
         mlx_lm_wrong="ignores layer_types"),
    Case("olmo", "clipped", dict(clip_qkv=0.9), mlx_lm_wrong="has only the original release's config"),
    Case("olmo", "tied-biases", dict(tie_word_embeddings=True, attention_bias=True),
         mlx_lm_wrong="has only the original release's config"),
    Case("olmo2", "plain"),
    Case("olmo2", "biases-tied-odd-heads", dict(ODD, attention_bias=True, tie_word_embeddings=True)),
    Case("olmo3", "window-yarn", dict(sliding_window=5, rope_parameters=dict(
        full_attention=dict(YARN, rope_theta=500000.0), sliding_attention=dict(rope_type="default", rope_theta=500000.0)))),
    Case("olmo3", "layer-types", dict(sliding_window=4, layer_types=KINDS3, attention_bias=True)),
    Case("olmoe", "plain", MOE),
    Case("olmoe", "clipped-normalised", dict(MOE, clip_qkv=0.9, norm_topk_prob=True), mlx_lm_wrong="ignores clip_qkv"),
    Case("granite", "multipliers", dict(intermediate_size=128, embedding_multiplier=3.0, attention_multiplier=0.2,
                                        residual_multiplier=0.4, logits_scaling=2.5, attention_bias=True, mlp_bias=True)),
    Case("granite", "plain-tied-llama3", dict(intermediate_size=128, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    Case("granitemoe", "multipliers", dict(LOCAL, embedding_multiplier=3.0, attention_multiplier=0.2,
                                           residual_multiplier=0.4, logits_scaling=2.5)),
    Case("granitemoe", "biases-tied", dict(LOCAL, attention_bias=True, tie_word_embeddings=True)),
    Case("glm", "plain", dict(head_dim=16), mlx_lm_wrong="ignores partial_rotary_factor"),
    Case("glm", "whole-heads-no-bias", dict(head_dim=24, attention_bias=False, rope_parameters=dict(
        HALF, partial_rotary_factor=1.0))),
    Case("glm4", "plain", dict(head_dim=16)),
    Case("glm4", "whole-heads-no-bias-tied", dict(head_dim=24, attention_bias=False, tie_word_embeddings=True,
         rope_parameters=dict(HALF, partial_rotary_factor=1.0)), mlx_lm_wrong="ignores tie_word_embeddings"),
    Case("stablelm", "quarter-turned", dict(use_qkv_bias=True)),
    Case("stablelm", "parallel-norms", dict(use_parallel_residual=True, qk_layernorm=True, rope_parameters=HALF)),
    Case("stablelm", "norms-tied", dict(qk_layernorm=True, tie_word_embeddings=True), mlx_lm_wrong="never ties"),
]
