"""Baichuan M1: each key and value is mixed with the one before it; sliding layers have their own number of heads."""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import CompositeCache, KVCache, RecurrentCache, SlidingCache
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import PreNorm, attend, make_rope
from ..weights import Each


@dataclass(kw_only=True)
class Config(DecoderConfig):
    sliding_window: int = 8192
    sliding_window_layers: list[int] = field(default_factory=list)
    num_swa_attention_heads: int | None = None
    num_swa_key_value_heads: int | None = None
    conv_window: int = 2

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, conv_window=2, tie_word_embeddings=False)


class ConvAttention(nn.Module):
    """Grouped-query attention with a causal convolution of width 2 over keys and values, one kernel for each head."""

    def __init__(self, dim: int, heads: int, kv_heads: int, *, rope, window: int | None):
        super().__init__()
        self.head_dim, self.window = dim // heads, window
        self.W_pack = nn.Linear(dim, dim + 2 * kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.conv_k, self.conv_v = (mx.zeros((1, 1, kv_heads, 1, 2)) for _ in "kv")
        self._rope, self._cuts = rope, [dim, dim + kv_heads * self.head_dim]

    def make_cache(self) -> CompositeCache:
        last = RecurrentCache(2, layout={slot: (0, 2, 1, 3) for slot in range(2)})
        return CompositeCache(last, SlidingCache(self.window) if self.window else KVCache())

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        q, k, v = (mx.unflatten(t, -1, (-1, self.head_dim)) for t in mx.split(self.W_pack(x), self._cuts, axis=-1))
        last, cache = cache[0], cache[1]
        k, v = mixed(k, self.conv_k, last, 0, step.valid()), mixed(v, self.conv_v, last, 1, step.valid())
        last.advance(x.shape[1])
        q, k, v = (t.swapaxes(1, 2) for t in (q, k, v))
        q, k = self._rope(q, step), self._rope(k, step)
        mask = step.mask(cache)
        k, v = cache.update(k, v)
        out = attend(q, k, v, scale=self.head_dim**-0.5, mask=mask)
        return self.o_proj(out.swapaxes(1, 2).flatten(-2))


def mixed(x: mx.array, kernel: mx.array, last: RecurrentCache, slot: int, valid: mx.array | None) -> mx.array:
    """x (B, L, heads, dim) and what came before each token, weighted; ``last`` keeps the last one. Padding is zeros."""
    if valid is not None:
        x = mx.where(valid[..., None, None], x, mx.array(0, x.dtype))
    before = last[slot]
    if before is None:
        before = mx.zeros_like(x[:, :1])
    last[slot] = x[:, -1:]
    weights = kernel[0, 0]  # (heads, 1, 2)
    return mx.concatenate([before, x[:, :-1]], axis=1) * weights[..., 0] + x * weights[..., 1]


def build(c: Config) -> Decoder:
    norm = recipe.norm(c)

    def block(i: int) -> PreNorm:
        near = i in c.sliding_window_layers
        heads = (c.num_swa_attention_heads if near else None) or c.num_attention_heads
        kv_heads = (c.num_swa_key_value_heads if near else None) or c.num_key_value_heads
        rope = make_rope(c.hidden_size // heads, c.rope(), max_positions=c.max_position_embeddings)
        mixer = ConvAttention(c.hidden_size, heads, kv_heads, rope=rope, window=c.sliding_window if near else None)
        return PreNorm(mixer, recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


def of_length_one(w: mx.array, config) -> mx.array:
    """The head's rows, each of length 1: the model divides by their lengths while it runs."""
    wide = w.astype(mx.float32)
    return (wide / (mx.linalg.norm(wide, axis=-1, keepdims=True) + 1e-7)).astype(w.dtype)


ARCHITECTURE = Architecture(Config, build, (), (Each("^lm_head.weight", of_length_one),))
