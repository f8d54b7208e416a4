"""Multi-head latent attention (DeepSeek V2, section 2.1): the cache holds one small latent for all heads."""

import math

import mlx.core as mx
import mlx.nn as nn

from ..cache import KVCache
from ..errors import WeightError
from ..kernels import ops
from .norms import RMSNorm


class MultiLinear(nn.Module):
    """A Linear for each head, without bias: weight (heads, out, in)."""

    def __init__(self, dim: int, out: int, heads: int):
        super().__init__()
        bound = math.sqrt(1 / dim)
        self.weight = mx.random.uniform(-bound, bound, (heads, out, dim))

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        """x (B, heads, L, in) to (B, heads, L, out), or back from out to in without ``transpose``."""
        return ops.matmul(x, self.weight.swapaxes(-1, -2) if transpose else self.weight)

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", quantize_input: bool = False
    ) -> "QuantizedMultiLinear":
        """The same layer, its weight quantized along the last axis."""
        return QuantizedMultiLinear(self, group_size, bits, mode)


class QuantizedMultiLinear(nn.Module):
    """MultiLinear on quantized weights."""

    def __init__(self, plain: MultiLinear, group_size: int | None, bits: int | None, mode: str):
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, *biases = mx.quantize(plain.weight, group_size=group_size, bits=bits, mode=mode)
        if biases:
            self.biases = biases[0]
        self.freeze()

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        return ops.quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.get("biases"),
            transpose=transpose,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )


class LatentAttention(nn.Module):
    """Attends in the latent space when decoding, in the head space when prefilling: the same numbers either way."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        q_rank: int | None,
        kv_rank: int,
        nope_dim: int,
        rope_dim: int,
        v_dim: int,
        rope,
        scale: float,
        bias: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        head_dim = nope_dim + rope_dim
        if q_rank is None:
            self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(dim, q_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(q_rank, eps)
            self.q_b_proj = nn.Linear(q_rank, heads * head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(dim, kv_rank + rope_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(kv_rank, eps)
        self.embed_q = MultiLinear(nope_dim, kv_rank, heads)
        self.unembed_out = MultiLinear(kv_rank, v_dim, heads)
        self.o_proj = nn.Linear(heads * v_dim, dim, bias=bias)
        self._rope = rope
        self.heads, self.nope_dim, self.kv_rank, self.scale = heads, nope_dim, kv_rank, scale

    def make_cache(self) -> KVCache:
        return KVCache()

    def squeezed(self, x: mx.array) -> mx.array:
        """What the queries are made of: ``x`` in fewer dims, or itself."""
        return self.q_a_layernorm(self.q_a_proj(x)) if "q_a_proj" in self else x

    def __call__(self, x: mx.array, cache, step) -> mx.array:
        return self.mix(x, self.squeezed(x), cache, step, step.mask(cache, array=True))

    def mix(self, x: mx.array, squeezed: mx.array, cache, step, mask: mx.array | None) -> mx.array:
        """The layer's output (B, L, dim), where each query attends to what ``mask`` lets it see."""
        q = (self.q_b_proj if "q_b_proj" in self else self.q_proj)(squeezed)
        q = mx.unflatten(q, -1, (self.heads, -1)).swapaxes(1, 2)
        q_nope, q_pe = mx.split(q, [self.nope_dim], axis=-1)
        latent, k_pe = mx.split(self.kv_a_proj_with_mqa(x)[:, None], [self.kv_rank], axis=-1)
        q_pe, k_pe = self._rope(q_pe, step), self._rope(k_pe, step)
        latent, k_pe = cache.update_and_fetch(self.kv_a_layernorm(latent), k_pe)
        bias = ops.matmul(q_pe * self.scale, k_pe.swapaxes(-1, -2))
        if mask is not None:
            bias = mx.where(mask, bias, mx.array(mx.finfo(bias.dtype).min, bias.dtype))
        return self.o_proj(self.gathered(q_nope, latent, bias).swapaxes(1, 2).flatten(-2))

    def gathered(self, q: mx.array, latent: mx.array, bias: mx.array) -> mx.array:
        """What q (B, heads, L, nope_dim) gathers from the latents (B, 1, S, kv_rank), as (B, heads, L, v_dim)."""
        if q.shape[2] == 1:
            return self.unembed_out(ops.attention(self.embed_q(q), latent, latent, scale=self.scale, mask=bias))
        k, v = self.embed_q(latent, transpose=False), self.unembed_out(latent)
        return ops.attention(q, k, v, scale=self.scale, mask=bias)


def absorb_kv(weights: dict[str, mx.array], config) -> dict[str, mx.array]:
    """A rule: kv_b_proj holds two matrices a head; one is folded into the query, the other into the output."""
    out = {}
    heads, nope, rank = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
    for name, w in weights.items():
        head, found, kind = name.rpartition(".kv_b_proj.")
        if not found:
            out[name] = w
            continue
        if kind != "weight" or w.shape != (heads * (nope + config.v_head_dim), rank):
            raise WeightError(
                "kv_b_proj can't be split into heads",
                where=name,
                found=tuple(w.shape),
                expected=(heads * (nope + config.v_head_dim), rank),
            )
        k, v = mx.split(w.reshape(heads, -1, rank), [nope], axis=1)
        out[f"{head}.embed_q.weight"] = k.swapaxes(1, 2)
        out[f"{head}.unembed_out.weight"] = v
    return out
