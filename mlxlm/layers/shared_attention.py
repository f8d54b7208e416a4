"""Attention whose later layers have no keys and values of their own: an earlier layer of their kind shares its own."""

import mlx.core as mx
import mlx.nn as nn

from ..cache import KVCache, NoCache, SlidingCache
from ..errors import ConfigError
from ..kernels import ops
from .attention import attend
from .norms import RMSNorm


class SharedAttention(nn.Module):
    """Normed queries, keys and values, scored without a scale.

    ``owner`` layers make keys and values and leave them in ``step.shared[kind]``; the others take them from there.
    Without ``v_proj`` the values are the keys, normed apart and not turned.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        kind: str,
        owner: bool,
        rope,
        eps: float,
        window: int | None = None,
        bias: bool = False,
        v_proj: bool = True,
    ):
        super().__init__()
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bias)
        self.q_norm = RMSNorm(head_dim, eps)
        if owner:
            self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=bias)
            self.k_norm = RMSNorm(head_dim, eps)
            if v_proj:
                self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=bias)
        self._rope, self._kind = rope, kind
        self.head_dim, self.window, self.eps = head_dim, window, eps

    def make_cache(self):
        if "k_proj" not in self:
            return NoCache()
        return SlidingCache(self.window) if self.window else KVCache()

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        q = self._rope(self.q_norm(self.heads(self.q_proj(x))).swapaxes(1, 2), step)
        if "k_proj" in self:
            step.shared[self._kind] = self.own(x, cache, step)
        k, v, mask = step.shared[self._kind]
        out = attend(q, k, v, scale=1.0, mask=mask)
        return self.o_proj(out.swapaxes(1, 2).flatten(-2))

    def own(self, x: mx.array, cache, step):
        """Keys, values and the mask for this layer and those that share with it."""
        k = self.heads(self.k_proj(x))
        v = self.heads(self.v_proj(x)) if "v_proj" in self else k
        k = self._rope(self.k_norm(k).swapaxes(1, 2), step)
        mask = step.mask(cache)
        return *cache.update(k, ops.rms_norm(v, None, self.eps).swapaxes(1, 2)), mask

    def heads(self, x: mx.array) -> mx.array:
        """(B, L, heads * head_dim) to (B, L, heads, head_dim)."""
        return mx.unflatten(x, -1, (-1, self.head_dim))


def owners(kinds: list[str], sharing: int) -> list[bool]:
    """Which layers have keys and values of their own: all but the last ``sharing`` ones."""
    first = len(kinds) - sharing
    if sharing and (not 0 < first < len(kinds) or set(kinds[first:]) - set(kinds[:first])):
        raise ConfigError(
            "layers share keys and values that no layer before them makes",
            where="config.json",
            found=f"num_kv_shared_layers {sharing}",
            expected="a layer of every kind before those that share",
        )
    return [i < first for i in range(len(kinds))]
