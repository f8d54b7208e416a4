"""GLM 4.7 Flash: DeepSeek V3's layers with GLM's defaults, and a list that says which layers have experts."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..layers import absorb_kv
from . import deepseek_v3


@dataclass(kw_only=True)
class Config(deepseek_v3.Config):
    q_lora_rank: int | None = 768
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 192
    qk_rope_head_dim: int = 64
    v_head_dim: int = 256
    moe_intermediate_size: int = 1536
    n_routed_experts: int = 64
    num_experts_per_tok: int = 4
    n_shared_experts: int | None = 1
    routed_scaling_factor: float = 1.8
    first_k_dense_replace: int = 1
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 202_752


ARCHITECTURE = Architecture(Config, deepseek_v3.build, deepseek_v3.NAMES, (absorb_kv,))
