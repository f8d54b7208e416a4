"""DeepSeek V3.2: V3 with an indexer that lets each query attend to its best few thousand tokens only."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import CompositeCache, KVCache
from ..decoder import Decoder
from ..kernels import ops
from ..layers import LatentAttention, LayerNorm, PreNorm, absorb_kv
from . import deepseek_v3


@dataclass(kw_only=True)
class Config(deepseek_v3.Config):
    UNREAD = frozenset({"index_topk_freq", "layer_types"})  # every layer is indexed

    q_lora_rank: int = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    moe_intermediate_size: int = 2048
    n_routed_experts: int = 256
    num_experts_per_tok: int = 8
    n_shared_experts: int | None = 1
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    first_k_dense_replace: int = 3
    max_position_embeddings: int = 163_840
    mlp_bias: bool = False
    index_topk: int = 2048
    index_head_dim: int = 128
    index_n_heads: int = 64
    indexer_rope_interleave: bool = False


class Indexer(nn.Module):
    """Scores every token for every query by small heads of its own, whose keys it caches."""

    def __init__(self, c: Config, rope):
        super().__init__()
        self.wq_b = nn.Linear(c.q_lora_rank, c.index_n_heads * c.index_head_dim, bias=False)
        self.wk = nn.Linear(c.hidden_size, c.index_head_dim, bias=False)
        self.k_norm = LayerNorm(c.index_head_dim, eps=1e-6)
        self.weights_proj = nn.Linear(c.hidden_size, c.index_n_heads, bias=False)
        self.heads, self.dim, self.k, self._rope = c.index_n_heads, c.index_head_dim, c.index_topk, rope

    def __call__(self, x: mx.array, squeezed: mx.array, cache, step, mask: mx.array | None) -> mx.array | None:
        """``mask`` (B or 1, 1, L, S) with all but the best ``k`` tokens of each query taken out."""
        q = mx.unflatten(self.wq_b(squeezed), -1, (self.heads, -1)).swapaxes(1, 2)
        k = self._rope(self.k_norm(self.wk(x))[:, None], step)
        k, _ = cache.update_and_fetch(k, k[..., :0])
        if k.shape[2] <= self.k:
            return mask
        q, k = self._rope(q, step).astype(mx.float32), k.astype(mx.float32)
        scores = mx.maximum(ops.matmul(q, k.swapaxes(-1, -2)), 0)  # (B, heads, L, S)
        weights = self.weights_proj(x).astype(mx.float32) * (self.heads * self.dim) ** -0.5
        scores = (weights.swapaxes(1, 2)[..., None] * scores).sum(1, keepdims=True)
        if mask is not None:
            scores = mx.where(mask, scores, -mx.inf)
        picks = mx.stop_gradient(mx.argpartition(-scores, kth=self.k - 1, axis=-1)[..., : self.k])
        chosen = mx.put_along_axis(mx.zeros(scores.shape, mx.bool_), picks, mx.array(True), axis=-1)
        return chosen if mask is None else chosen & mask


class IndexedAttention(LatentAttention):
    """Latent attention to what the indexer picks."""

    def __init__(self, *sizes: int, indexer: Indexer, **rest):
        super().__init__(*sizes, **rest)
        self.indexer = indexer

    def make_cache(self) -> CompositeCache:
        return CompositeCache(KVCache(), KVCache())

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        squeezed = self.squeezed(x)
        mask = self.indexer(x, squeezed, cache[1], step, step.mask(cache[0], array=True))
        return self.mix(x, squeezed, cache[0], step, mask)


def build(c: Config) -> Decoder:
    norm, sparse = recipe.norm(c), deepseek_v3.sparse_layers(c)
    rope = recipe.rope(c, dims=c.qk_rope_head_dim, interleaved=c.rope_interleave)
    index_rope = recipe.rope(c, dims=c.qk_rope_head_dim, interleaved=c.indexer_rope_interleave)

    def block(i: int) -> PreNorm:
        attention = deepseek_v3.latent(c, IndexedAttention, rope=rope, indexer=Indexer(c, index_rope))
        mlp = recipe.grouped_moe(c) if sparse[i] else recipe.gated_mlp(c, bias=c.mlp_bias)
        return PreNorm(attention, mlp, norm)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(Config, build, deepseek_v3.NAMES, (absorb_kv,))
