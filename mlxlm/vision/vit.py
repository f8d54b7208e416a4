"""The vision transformer that most towers are: patches, layers in which every patch sees every other, and norms.

What differs between towers comes in as a part: how patches get their positions, a rope, a gated MLP, the names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from ..config import positive
from ..errors import ConfigError
from ..kernels import ops
from ..layers import LayerNorm, activation

Turn = Callable[[mx.array], mx.array]


@dataclass(kw_only=True)
class VisionConfig:
    """What nearly every tower's ``vision_config`` says, under the names that it uses."""

    # Of the text half of a contrastive pair, of generation, or of another model's projector; no tower reads them.
    UNREAD: ClassVar[frozenset[str]] = frozenset({
        "vocab_size", "projection_dim", "tie_word_embeddings", "num_image_tokens", "projector_hidden_act",
        "use_base_siglip", "vision_use_head", "skip_vision", "position_embedding_type", "num_positions",
        "max_num_patches", "spatial_merge_size", "num_attention_layers", "tokens_per_image", "layer_types",
        "num_beams", "num_beam_groups", "num_return_sequences", "head_dim", "is_composition",
    })  # fmt: skip

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    def __post_init__(self):
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_channels", "patch_size"):
            positive(self, name)
        positive(self, "num_hidden_layers", 1 << 12)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                "the tower's hidden_size isn't a multiple of its num_attention_heads",
                where="config.json",
                found=f"{self.hidden_size} and {self.num_attention_heads}",
            )

    @property
    def side(self) -> int:
        """Patches along a side of the image that the tower was trained on."""
        return self.image_size // self.patch_size


class Patches(nn.Module):
    """Pixels (N, channels, H, W) to patches (N, H / size, W / size, dim): a convolution whose windows don't overlap."""

    def __init__(self, channels: int, dim: int, size: int, *, bias: bool = True):
        super().__init__()
        self.weight = mx.zeros((dim, size, size, channels))
        if bias:
            self.bias = mx.zeros((dim,))

    def __call__(self, pixels: mx.array) -> mx.array:
        dim, size, _, channels = self.weight.shape
        n, _, height, width = pixels.shape
        h, w = height // size, width // size
        x = pixels[:, :, : h * size, : w * size].astype(self.weight.dtype)
        x = x.reshape(n, channels, h, size, w, size).transpose(0, 2, 4, 3, 5, 1).reshape(n, h, w, -1)
        return ops.linear(x, self.weight.reshape(dim, -1), self.get("bias"))


class Attention(nn.Module):
    """Every patch sees every other, or those that ``mask`` says; ``out`` is the checkpoint's name for the last map."""

    def __init__(self, dim: int, heads: int, *, bias: bool = True, out: str = "out_proj"):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self[out] = nn.Linear(dim, dim, bias=bias)
        self._out, self._head_dim = out, dim // heads

    def __call__(self, x: mx.array, mask: mx.array | None = None, turn: Turn | None = None) -> mx.array:
        q, k, v = (
            mx.unflatten(p(x), -1, (-1, self._head_dim)).swapaxes(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        if turn is not None:
            q, k = turn(q), turn(k)
        out = ops.attention(q, k, v, scale=self._head_dim**-0.5, mask=mask)
        return self[self._out](out.swapaxes(1, 2).flatten(-2))


class MLP(nn.Module):
    """fc2(act(fc1(x)))."""

    def __init__(self, dim: int, hidden: int, act: str):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self._act = activation(act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(self._act(self.fc1(x)))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); ``names`` are the checkpoint's for the four parts."""

    NAMES = ("self_attn", "mlp", "layer_norm1", "layer_norm2")

    def __init__(self, attention, mlp, norm: Callable, *, names: tuple[str, str, str, str] = NAMES):
        super().__init__()
        self._names = names
        for name, part in zip(names, (attention, mlp, norm(), norm()), strict=True):
            self[name] = part

    def __call__(self, x: mx.array, mask: mx.array | None = None, turn: Turn | None = None) -> mx.array:
        attention, mlp, before, between = (self[name] for name in self._names)
        x = x + attention(before(x), mask, turn)
        return x + mlp(between(x))


class Layers(nn.Module):
    """The stack of layers, under the name ``layers``."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = list(layers)

    def __call__(self, x: mx.array, mask: mx.array | None = None, turn: Turn | None = None) -> list[mx.array]:
        """The hidden states: ``x``, then what each layer makes of it. Those that nobody takes are never computed."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask, turn))
        return states


def encoder(c: VisionConfig) -> Layers:
    """The layers of SigLIP and CLIP."""

    def norm() -> LayerNorm:
        return LayerNorm(c.hidden_size, c.layer_norm_eps)

    return Layers([
        Layer(
            Attention(c.hidden_size, c.num_attention_heads), MLP(c.hidden_size, c.intermediate_size, c.hidden_act), norm
        )
        for _ in range(c.num_hidden_layers)
    ])


def chosen(states: list[mx.array], layers: int | Sequence[int], *, skip: int = 0) -> mx.array:
    """The hidden states of the ``layers`` side by side (..., dim * len(layers)), without the first ``skip`` rows.

    Raises ConfigError for a layer that the tower hasn't.
    """
    numbers = [layers] if isinstance(layers, int) else list(layers)
    if not numbers or any(not -len(states) <= n < len(states) for n in numbers):
        raise ConfigError(
            "vision_feature_layer names a layer that the tower hasn't",
            where="config.json",
            found=repr(layers),
            expected=f"from {-len(states)} to {len(states) - 1}",
        )
    return mx.concatenate([states[n][..., skip:, :] for n in numbers], axis=-1)


def patches_to_mlx(w: mx.array, config: Any) -> mx.array:
    """A patch convolution, (dim, channels, size, size) as torch lays it out, to (dim, size, size, channels)."""
    return w.transpose(0, 2, 3, 1)
