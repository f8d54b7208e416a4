"""Mixtral: Mistral with experts, softmaxed over all, the best few kept and made to sum to one."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm, top_k
from ..weights import FUSED_EXPERTS, Rename, Stack, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 131_072
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    sliding_window: int | None = None


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)

    def block(i: int) -> PreNorm:
        moe = recipe.routed_moe(c, c.num_local_experts, c.intermediate_size, top_k(c.num_experts_per_tok))
        return PreNorm(recipe.attention(c, rope=rope, window=c.sliding_window), moe, norm)

    return recipe.decoder(c, block, norm)


SPARSE = Rename("block_sparse_moe", "mlp")
NAMES = (
    SPARSE,
    Stack("mlp.experts.*.w1", "mlp.switch_mlp.gate_proj"),
    Stack("mlp.experts.*.w3", "mlp.switch_mlp.up_proj"),
    Stack("mlp.experts.*.w2", "mlp.switch_mlp.down_proj"),
    *FUSED_EXPERTS,
)
SAVED = backwards(SPARSE)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=SAVED)
