"""DeepSeek V3, and Kimi K2 which is built alike: latent attention, and many small experts chosen in groups."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import LatentAttention, PreNorm, absorb_kv
from ..layers.rope import yarn_mscale
from ..weights import FUSED_EXPERTS, stacked


@dataclass(kw_only=True)
class Config(DecoderConfig):
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int | None = None
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    mlp_layer_types: list[str] | None = None  # stands before the two above
    attention_bias: bool = False
    rope_interleave: bool = True
    qk_head_dim: int | None = None  # the sum of its two parts; said again in some configs
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, scoring_func="sigmoid", topk_method="noaux_tc")


def latent(c, kind: type[LatentAttention] = LatentAttention, **more) -> LatentAttention:
    """Latent attention of the config's ranks and dims."""
    return kind(
        c.hidden_size,
        c.num_attention_heads,
        q_rank=c.q_lora_rank,
        kv_rank=c.kv_lora_rank,
        nope_dim=c.qk_nope_head_dim,
        rope_dim=c.qk_rope_head_dim,
        v_dim=c.v_head_dim,
        scale=attention_scale(c),
        bias=c.attention_bias,
        **more,
    )


def sparse_layers(c) -> list[bool]:
    """Which layers have experts."""
    if c.mlp_layer_types is not None:
        return [kind == "sparse" for kind in c.mlp_layer_types]
    return [i >= c.first_k_dense_replace and i % c.moe_layer_freq == 0 for i in range(c.num_hidden_layers)]


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c, dims=c.qk_rope_head_dim, interleaved=c.rope_interleave)
    sparse = sparse_layers(c)

    def block(i: int) -> PreNorm:
        return PreNorm(latent(c, rope=rope), recipe.grouped_moe(c) if sparse[i] else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


def attention_scale(c: Config) -> float:
    """1/sqrt(head_dim), raised for long contexts as YaRN asks."""
    scale, settings = (c.qk_nope_head_dim + c.qk_rope_head_dim) ** -0.5, c.rope()
    if settings["rope_type"] != "default" and settings.get("mscale_all_dim"):
        scale *= yarn_mscale(settings.get("factor") or 1.0, settings["mscale_all_dim"]) ** 2
    return scale


NAMES = (*stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS)
ARCHITECTURE = Architecture(Config, build, NAMES, (absorb_kv,))
