"""InternViT: a class token, learned positions, a scale on each half of a layer; then four patches become one row."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError, UsageError
from ..kernels import ops
from ..layers import LayerNorm, RMSNorm, activation
from . import vit

NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm}


@dataclass(kw_only=True)
class InternConfig(vit.VisionConfig):
    UNREAD = vit.VisionConfig.UNREAD | {
        "layer_scale_init_value", "use_mask_token", "drop_path_rate", "dropout", "use_bfloat16",
    }  # fmt: skip

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int | list[int] = 448
    patch_size: int | list[int] = 14
    hidden_act: str = "gelu"
    norm_type: str = "layer_norm"
    attention_bias: bool = False
    use_qk_norm: bool = False
    use_absolute_position_embeddings: bool = True
    use_mean_pooling: bool = True  # else the last layer's output is normed

    def __post_init__(self):
        self.image_size, self.patch_size = _side(self.image_size, "image_size"), _side(self.patch_size, "patch_size")
        super().__post_init__()
        if self.norm_type not in NORMS:
            raise ConfigError("this norm_type is not known", where="config.json", found=repr(self.norm_type),
                              expected=f"one of {', '.join(NORMS)}")
        if not self.use_absolute_position_embeddings:
            raise ConfigError("the tower has learned positions", where="config.json",
                              found="use_absolute_position_embeddings false")


def _side(value: int | list, name: str) -> int:
    """A size that may be given for either side; ConfigError where the sides differ."""
    sides = [value] if isinstance(value, int) else list(value)
    if len(set(sides)) != 1 or not isinstance(sides[0], int):
        raise ConfigError(f"{name} must be that of a square", where="config.json", found=repr(value))
    return sides[0]


class Attention(vit.Attention):
    """Queries and keys may be normed, all heads as one vector."""

    def __init__(self, c: InternConfig):
        super().__init__(c.hidden_size, c.num_attention_heads, out="proj")
        if not c.attention_bias:
            for name in ("q_proj", "k_proj", "v_proj"):
                del self[name].bias
        if c.use_qk_norm:
            self.q_norm = RMSNorm(c.hidden_size, c.layer_norm_eps)
            self.k_norm = RMSNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, mask: mx.array | None = None, turn: vit.Turn | None = None) -> mx.array:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if "q_norm" in self:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (mx.unflatten(h, -1, (-1, self._head_dim)).swapaxes(1, 2) for h in (q, k, v))
        out = ops.attention(q, k, v, scale=self._head_dim**-0.5, mask=mask)
        return self["proj"](out.swapaxes(1, 2).flatten(-2))


class Layer(nn.Module):
    """A pre-norm layer with a learned scale on what either half adds."""

    def __init__(self, c: InternConfig):
        super().__init__()
        self.attn, self.mlp = Attention(c), vit.MLP(c.hidden_size, c.intermediate_size, c.hidden_act)
        norm = partial(NORMS[c.norm_type], c.hidden_size, c.layer_norm_eps)
        self.norm1, self.norm2 = norm(), norm()
        self.ls1, self.ls2 = mx.ones((c.hidden_size,)), mx.ones((c.hidden_size,))

    def __call__(self, x: mx.array, mask: mx.array | None = None, turn: vit.Turn | None = None) -> mx.array:
        x = x + self.ls1 * self.attn(self.norm1(x), mask)
        return x + self.ls2 * self.mlp(self.norm2(x))


class Embeddings(nn.Module):
    """The class token and the patches, each with its learned position."""

    def __init__(self, c: InternConfig):
        super().__init__()
        self.class_embedding = mx.zeros((1, 1, c.hidden_size))
        self.patch_embedding = vit.Patches(c.num_channels, c.hidden_size, c.patch_size)  # type: ignore[arg-type]
        self.position_embedding = mx.zeros((1, c.side**2 + 1, c.hidden_size))

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.patch_embedding(pixels).flatten(1, 2)
        if x.shape[1] + 1 != (rows := self.position_embedding.shape[1]):
            raise UsageError("the tile isn't of the size that the tower takes", where="pixel_values",
                             found=f"{x.shape[1]} patches", expected=f"{rows - 1}")
        first = mx.broadcast_to(self.class_embedding, (x.shape[0], 1, x.shape[-1]))
        return mx.concatenate([first, x], axis=1) + self.position_embedding


class InternTower(nn.Module):
    """Tiles (N, channels, H, W) to hidden states (N, 1 + patches, dim); the first row is the class token's."""

    def __init__(self, c: InternConfig):
        super().__init__()
        self.embeddings = Embeddings(c)
        self.encoder = vit.Layers([Layer(c) for _ in range(c.num_hidden_layers)])
        if not c.use_mean_pooling:
            self.layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def states(self, pixels: mx.array) -> list[mx.array]:
        """What goes into the first layer, then what each layer makes of it; the last one normed if the tower does."""
        states = self.encoder(self.embeddings(pixels))
        return [*states[:-1], self.layernorm(states[-1])] if "layernorm" in self else states

    def __call__(self, pixels: mx.array) -> mx.array:
        return self.states(pixels)[-1]


class Projector(nn.Module):
    """``ratio`` of either side is left: neighbours side by side in one row, normed, through two maps."""

    def __init__(self, dim: int, out: int, ratio: float, act: str = "gelu"):
        super().__init__()
        self._each = round(1 / ratio)
        wide = dim * self._each**2
        self.layer_norm = LayerNorm(wide, 1e-5)
        self.linear_1, self.linear_2 = nn.Linear(wide, out), nn.Linear(out, out)
        self._act = activation(act)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, side², dim) to (N, (side / each)², out)."""
        return self.linear_2(self._act(self.linear_1(self.layer_norm(shuffled(x, self._each)))))


def shuffled(x: mx.array, each: int) -> mx.array:
    """(N, side², dim) to (N, (side / each)², each² * dim): neighbouring patches as one, row by row of the block."""
    side = round(x.shape[1] ** 0.5)
    if side % each:
        raise ConfigError("downsample_ratio doesn't divide the patches of a tile", where="config.json",
                          found=f"{side} patches along a side", expected=f"a multiple of {each}")
    x = x.reshape(len(x), side // each, each, side // each, each, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)
