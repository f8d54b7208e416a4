"""EXAONE with experts: three sliding layers with positions for each full one without, and DeepSeek V3's experts."""

from dataclasses import dataclass
from functools import partial

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm, RMSNorm
from ..weights import Drop, Suffix, expert_rules


@dataclass(kw_only=True)
class Config(DecoderConfig):
    sliding_window: int | None = 4096
    sliding_window_pattern: str | int | None = 4  # or a word of L and G, local and global
    layer_types: list[str] | None = None
    mlp_layer_types: list[str] | None = None
    is_moe_layer: list[bool] | None = None
    first_k_dense_replace: int = 1
    moe_intermediate_size: int = 1024
    n_routed_experts: int = 64
    num_experts_per_tok: int = 8
    n_shared_experts: int | None = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    n_group: int = 1
    topk_group: int = 1
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    rms_norm_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, scoring_func="sigmoid", topk_method="noaux_tc")
        if self.mlp_layer_types is not None:
            self.is_moe_layer = [kind == "sparse" for kind in self.mlp_layer_types]


def kind_of(c: Config, i: int) -> str:
    """The kind of layer i, where the config doesn't list them."""
    pattern = c.sliding_window_pattern
    if c.sliding_window is None or not pattern:
        return "full_attention"
    near = pattern[i % len(pattern)] == "L" if isinstance(pattern, str) else (i + 1) % pattern != 0
    return "sliding_attention" if near else "full_attention"


def build(c: Config) -> Decoder:
    norm, rope, head_norm = recipe.norm(c), recipe.rope(c), partial(RMSNorm, c.head_dim, c.rms_norm_eps)
    kinds = recipe.layer_types(c, partial(kind_of, c), ("full_attention", "sliding_attention"))
    sparse = c.is_moe_layer or [i >= c.first_k_dense_replace for i in range(c.num_hidden_layers)]

    def block(i: int) -> PreNorm:
        near = kinds[i] == "sliding_attention"
        attention = recipe.attention(
            c,
            rope=rope if near or c.sliding_window is None else None,
            window=c.sliding_window if near else None,
            q_norm=head_norm(),
            k_norm=head_norm(),
        )
        return PreNorm(attention, recipe.grouped_moe(c) if sparse[i] else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


NAMES = (
    Drop("^mtp"),
    Suffix("mlp.e_score_correction_bias", "mlp.gate.e_score_correction_bias"),
    *expert_rules("mlp"),
)
ARCHITECTURE = Architecture(Config, build, NAMES)
