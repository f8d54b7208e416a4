"""Gemma 4's vision tower: patches of any grid, turned by row and column, norms on either side, pooled k by k."""

from dataclasses import dataclass
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import ConfigError
from ..kernels import ops
from ..layers import BareRMSNorm, RMSNorm, activation


@dataclass(kw_only=True)
class VisionConfig:
    UNREAD = frozenset({"max_position_embeddings", "default_output_length", "global_head_dim"})

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 16
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    head_dim: int = 64
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    rope_parameters: dict | None = None
    pooling_kernel_size: int = 3
    patch_size: int = 16
    position_embedding_size: int = 10_240
    use_clipped_linears: bool = False
    standardize: bool = False

    def __post_init__(self):
        if self.attention_bias:
            raise ConfigError("biases in the vision tower's attention aren't known", where="config.json")
        kind = (self.rope_parameters or {}).get("rope_type", "axial")
        if kind not in ("axial", "default"):
            raise ConfigError("the vision tower's rope is axial", where="config.json", found=repr(kind))

    @property
    def rope_theta(self) -> float:
        return float((self.rope_parameters or {}).get("rope_theta") or 100.0)


class ClippedLinear(nn.Module):
    """A projection whose inputs and outputs are kept within bounds that the checkpoint holds, if it has them."""

    def __init__(self, dim: int, out: int, clipped: bool):
        super().__init__()
        self.linear = nn.Linear(dim, out, bias=False)
        if clipped:
            self.input_min, self.output_min = mx.array(-mx.inf), mx.array(-mx.inf)
            self.input_max, self.output_max = mx.array(mx.inf), mx.array(mx.inf)

    def __call__(self, x: mx.array) -> mx.array:
        if "input_min" not in self:
            return self.linear(x)
        y = self.linear(mx.clip(x, self.input_min.astype(x.dtype), self.input_max.astype(x.dtype)))
        return mx.clip(y, self.output_min.astype(y.dtype), self.output_max.astype(y.dtype))


class Attention(nn.Module):
    """Every patch sees every other of its image; queries, keys and values are normed, scores have no scale."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        dim, clipped = c.hidden_size, c.use_clipped_linears
        self.q_proj = ClippedLinear(dim, c.num_attention_heads * c.head_dim, clipped)
        self.k_proj = ClippedLinear(dim, c.num_key_value_heads * c.head_dim, clipped)
        self.v_proj = ClippedLinear(dim, c.num_key_value_heads * c.head_dim, clipped)
        self.o_proj = ClippedLinear(c.num_attention_heads * c.head_dim, dim, clipped)
        self.q_norm, self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps), RMSNorm(c.head_dim, c.rms_norm_eps)
        self._v_norm, self._head_dim = BareRMSNorm(c.head_dim, c.rms_norm_eps), c.head_dim

    def __call__(self, x: mx.array, turn) -> mx.array:
        q, k, v = (mx.unflatten(p(x), -1, (-1, self._head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = turn(self.q_norm(q).swapaxes(1, 2)), turn(self.k_norm(k).swapaxes(1, 2))
        out = ops.attention(q, k, self._v_norm(v).swapaxes(1, 2), scale=1.0, mask=None)
        return self.o_proj(out.swapaxes(1, 2).flatten(-2))


class MLP(nn.Module):
    """down(act(gate(x)) * up(x)), its projections clipped as the attention's."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.gate_proj = ClippedLinear(c.hidden_size, c.intermediate_size, c.use_clipped_linears)
        self.up_proj = ClippedLinear(c.hidden_size, c.intermediate_size, c.use_clipped_linears)
        self.down_proj = ClippedLinear(c.intermediate_size, c.hidden_size, c.use_clipped_linears)
        self._act = activation(c.hidden_activation)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self._act(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """A norm on either side of the attention and of the MLP."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), MLP(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.pre_feedforward_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def __call__(self, x: mx.array, turn) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), turn))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class PatchEmbedder(nn.Module):
    """Patches in [0, 1] to embeddings, with a learned row for each column and one for each row of the grid."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.input_proj = nn.Linear(3 * c.patch_size**2, c.hidden_size, bias=False)
        self.position_embedding_table = mx.zeros((2, c.position_embedding_size, c.hidden_size))

    def __call__(self, patches: mx.array, places: mx.array) -> mx.array:
        table = self.position_embedding_table
        x = self.input_proj((2 * (patches - 0.5)).astype(self.dtype))
        return x + table[0][places[:, 0]] + table[1][places[:, 1]]

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that the tower works in."""
        return self.position_embedding_table.dtype


class Encoder(nn.Module):
    def __init__(self, c: VisionConfig):
        super().__init__()
        self.layers = [Layer(c) for _ in range(c.num_hidden_layers)]

    def __call__(self, x: mx.array, turn) -> mx.array:
        for layer in self.layers:
            x = layer(x, turn)
        return x


class VisionTower(nn.Module):
    """Images of any grid to soft tokens, each the mean of k by k patches."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.patch_embedder, self.encoder = PatchEmbedder(c), Encoder(c)
        if c.standardize:
            self.std_bias, self.std_scale = mx.zeros((c.hidden_size,)), mx.ones((c.hidden_size,))
        self._pool, self._theta = c.pooling_kernel_size, c.rope_theta
        self._half, self._dim = c.head_dim // 2, c.hidden_size

    def __call__(self, patches: mx.array, places: mx.array) -> mx.array:
        """Patches (images, most, 3 * size²) at ``places`` (images, most, 2) as (x, y), -1 where there is none.

        Returns the soft tokens of all images (tokens, dim), row by row.
        """
        grids = np.array(places).max(axis=1) + 1
        rows, first = [], 0
        for (width, height), same in groupby(map(tuple, grids.tolist())):
            last = first + len(list(same))
            rows.append(self._see(patches[first:last, : width * height], width, height).reshape(-1, self._dim))
            first = last
        return mx.concatenate(rows)

    def _see(self, patches: mx.array, width: int, height: int) -> mx.array:
        """Patches (images, height * width, …) of one grid to (images, tokens, dim)."""
        y, x = np.divmod(np.arange(width * height), width)
        places = mx.array(np.stack([x, y], axis=-1))
        dtype, k = self.patch_embedder.dtype, self._pool
        h = self.encoder(self.patch_embedder(patches, places), Turn(places, self._half, self._theta, dtype))
        h = h.astype(mx.float32).reshape(-1, height // k, k, width // k, k, self._dim).mean((2, 4))
        h = h * self._dim**0.5
        if "std_scale" in self:
            h = (h - self.std_bias.astype(mx.float32)) * self.std_scale.astype(mx.float32)
        return h.astype(dtype)


class Turn:
    """Rotates the first half of a head by its patch's column and the second by its row."""

    def __init__(self, places: mx.array, half: int, theta: float, dtype: mx.Dtype):
        inverse = mx.array(1.0 / theta ** (np.arange(0, half, 2, dtype=np.float32) / half))
        angles = places[:, :, None] * inverse  # (patches, 2, half / 2)
        self.cos, self.sin = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """x (images, heads, patches, head_dim)."""
        a, b = mx.split(mx.unflatten(x, -1, (2, -1)), 2, axis=-1)  # either axis' pairs lie half a part away
        turned = mx.concatenate([a * self.cos - b * self.sin, b * self.cos + a * self.sin], axis=-1)
        return turned.flatten(-2)


class Embedder(nn.Module):
    """Soft tokens, normed without a weight, into the language model's space."""

    def __init__(self, c: VisionConfig, dim: int):
        super().__init__()
        self.embedding_projection = nn.Linear(c.hidden_size, dim, bias=False)
        self._norm = BareRMSNorm(c.hidden_size, c.rms_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        return self.embedding_projection(self._norm(x))
