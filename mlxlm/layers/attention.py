"""Grouped-query attention, and the few ways of scoring it."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..cache import KVCache, Packed, SlidingCache
from ..kernels import ops
from ..kernels.plain import by_key_head, seen

FEW = 16  # queries up to which packed tokens are counted with as they are; more of them pay for unpacking


def attend(q, k, v, *, scale: float, mask, sinks=None, cap: float | None = None) -> mx.array:
    """Softmax attention: q (B, heads, L, dim), k and v (B, kv_heads, S, dim) to (B, heads, L, v_dim).

    k and v may be `Packed`, as a quantized cache hands them out. With a ``cap`` scores are squashed to (-cap, cap).
    """
    if isinstance(k, Packed):
        if ops.native is not None and k.bits == v.bits and k.group_size == v.group_size:
            y = ops.native.packed_attention(q, k.arrays, v.arrays, group_size=k.group_size, bits=k.bits, scale=scale,
                                            mask=mask, sinks=sinks, cap=cap)
            if y is not None:
                return y
        if q.shape[2] <= FEW and sinks is None and cap is None:
            return attend_packed(q, k, v, scale=scale, mask=mask)
        k, v = k.unpacked(), v.unpacked()
    return ops.attention(q, k, v, scale=scale, mask=mask, sinks=sinks, cap=cap)


def attend_packed(q, k: Packed, v: Packed, *, scale: float, mask) -> mx.array:
    """`attend` in plain ``mx`` on packed keys and values, of which only products are ever made."""
    b, heads, length, dim = q.shape
    kv_heads, total = k.shape[1], k.shape[2]
    # The queries of one key's heads stand under one another: (B, kv_heads, heads / kv_heads * L, dim).
    scores = k.product((q * scale).reshape(b, kv_heads, -1, dim), transpose=True)
    scores = scores.reshape(b, kv_heads, -1, length, total)
    if mask is not None:
        visible = by_key_head(seen(mask, length, total), kv_heads)
        if visible.dtype == mx.bool_:
            scores = mx.where(visible, scores, mx.array(-mx.inf, scores.dtype))
        else:
            scores = scores + visible
    weights = mx.softmax(scores, axis=-1, precise=True).reshape(b, kv_heads, -1, total)
    return v.product(weights, transpose=False).reshape(b, heads, length, -1).astype(q.dtype)


def softcap(x: mx.array, cap: float) -> mx.array:
    """x squashed to (-cap, cap)."""
    return cap * mx.tanh(x / cap)


class Softcapped:
    """An ``attend`` whose scores are squashed to (-cap, cap)."""

    def __init__(self, cap: float):
        self.cap = cap

    def __call__(self, q, k, v, *, scale: float, mask, sinks=None) -> mx.array:
        return attend(q, k, v, scale=scale, mask=mask, sinks=sinks, cap=self.cap)


def alibi(slopes: mx.array) -> Callable:
    """An ``attend`` that takes ``slopes`` (heads,) times the distance off each score (Press et al., ALiBi)."""

    def attend_alibi(q, k, v, *, scale: float, mask, sinks=None) -> mx.array:
        length, total = q.shape[2], k.shape[2]
        distance = mx.arange(total - length, total)[:, None] - mx.arange(total)
        bias = -slopes[:, None, None] * distance
        bias = bias[None] if mask is None else mx.where(seen(mask, length, total), bias, -mx.inf)
        return attend(q, k, v, scale=scale, mask=bias.astype(q.dtype), sinks=sinks)

    return attend_alibi


class Attention(nn.Module):
    """Grouped-query attention.

    What varies between models comes in as a part, not as a flag: ``rope`` is a callable or None,
    ``q_norm``/``k_norm`` are norms over (B, L, heads, head_dim) or None, ``attend`` does the scoring; ``clip`` bounds
    queries, keys and values.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        rope=None,
        q_norm=None,
        k_norm=None,
        window: int | None = None,
        scale: float | None = None,
        bias: bool = False,
        out_bias: bool | None = None,
        sinks: bool = False,
        clip: float | None = None,
        attend: Callable = attend,
    ):
        super().__init__()
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bias if out_bias is None else out_bias)
        if q_norm is not None and k_norm is not None:
            self.q_norm, self.k_norm = q_norm, k_norm
        if sinks:
            self.sinks = mx.zeros((heads,))
        self._rope, self._attend, self._clip = rope, attend, clip
        self.head_dim, self.window = head_dim, window
        self.scale = head_dim**-0.5 if scale is None else scale

    def make_cache(self):
        return SlidingCache(self.window) if self.window else KVCache()

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        return self.o_proj(self.mix(self.heads(self.q_proj(x)), x, cache, step))

    def mix(self, q: mx.array, x: mx.array, cache, step) -> mx.array:
        """What ``q`` (B, L, heads, head_dim) gathers from ``x`` and all before it, as (B, L, heads * head_dim)."""
        k, v = self.heads(self.k_proj(x)), self.values(x)
        q, k = self.normed(q, k)
        if self._clip is not None:
            q, k, v = (mx.clip(t, -self._clip, self._clip) for t in (q, k, v))
        q, k = self.turned(q.swapaxes(1, 2), k.swapaxes(1, 2), step)
        v = v.swapaxes(1, 2)
        mask = self.mask(cache, step)
        k, v = cache.update(k, v)
        out = self._attend(q, k, v, scale=self.scale, mask=mask, sinks=self.get("sinks"))
        return out.swapaxes(1, 2).flatten(-2)

    def values(self, x: mx.array) -> mx.array:
        """(B, L, dim) to (B, L, kv_heads, v_dim)."""
        return self.heads(self.v_proj(x))

    def normed(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        """Queries and keys (B, L, heads, head_dim) after their norms, if the model has them here."""
        return (self.q_norm(q), self.k_norm(k)) if "q_norm" in self else (q, k)

    def turned(self, q: mx.array, k: mx.array, step) -> tuple[mx.array, mx.array]:
        """Queries and keys (B, heads, L, head_dim) turned by their positions."""
        return (self._rope(q, step), self._rope(k, step)) if self._rope is not None else (q, k)

    def mask(self, cache, step):
        """What the queries may see."""
        return step.mask(cache)

    def heads(self, x: mx.array) -> mx.array:
        """(B, L, heads * head_dim) to (B, L, heads, head_dim)."""
        return mx.unflatten(x, -1, (-1, self.head_dim))


class LateNormAttention(Attention):
    """Attention whose norms on queries and keys come after the rope."""

    def normed(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        return q, k

    def turned(self, q: mx.array, k: mx.array, step) -> tuple[mx.array, mx.array]:
        return super().normed(*super().turned(q, k, step))


class TemperedAttention(Attention):
    """Attention whose queries are scaled by what ``temper`` makes of their positions (B or 1, 1, L, 1)."""

    def __init__(self, *sizes: int, temper: Callable[[mx.array], mx.array], **parts):
        super().__init__(*sizes, **parts)
        self._temper = temper

    def turned(self, q: mx.array, k: mx.array, step) -> tuple[mx.array, mx.array]:
        q, k = super().turned(q, k, step)
        starts = mx.array(step.positions).reshape(-1, 1, 1, 1)
        positions = mx.maximum(starts + mx.arange(q.shape[2])[:, None], 0)  # below it there is padding
        return (q * self._temper(positions)).astype(q.dtype), k
