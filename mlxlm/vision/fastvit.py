"""FastViT HD: stages of depthwise convolutions, then stages of attention, each at half the size of the one before.

Layout (N, H, W, channels) throughout. Only the form for inference exists, in which every branch is folded into one
convolution (Vasu et al., FastViT; the variant is FastVLM's).
"""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError
from ..kernels import ops
from ..layers import LayerNorm
from .convs import Conv


@dataclass(kw_only=True)
class FastVitConfig:
    """The released checkpoints don't say these: the defaults are FastVLM's tower."""

    layers: list[int] = field(default_factory=lambda: [2, 12, 24, 4, 2])
    embed_dims: list[int] = field(default_factory=lambda: [96, 192, 384, 768, 1536])
    mlp_ratios: list = field(default_factory=lambda: [4, 4, 4, 4, 4])
    token_mixers: list[str] = field(default_factory=lambda: ["repmixer"] * 3 + ["attention"] * 2)
    pos_embs_shapes: list = field(default_factory=lambda: [None, None, None, [7, 7], [7, 7]])
    repmixer_kernel_size: int = 3
    down_patch_size: int = 7
    down_stride: int = 2
    cls_ratio: float = 2.0
    head_dim: int = 32

    def __post_init__(self):
        stages = {len(self.layers), len(self.embed_dims), len(self.mlp_ratios), len(self.token_mixers),
                  len(self.pos_embs_shapes)}  # fmt: skip
        if len(stages) != 1:
            raise ConfigError("the tower's lists must have an entry for each stage", where="config.json",
                              found=sorted(stages), expected=len(self.layers))

    @property
    def out_dim(self) -> int:
        """The width of the features."""
        return int(self.embed_dims[-1] * self.cls_ratio)

    @property
    def stride(self) -> int:
        """Pixels along a side of what becomes one feature."""
        return 4 * self.down_stride ** (len(self.layers) - 1)


class SqueezeExcite(nn.Module):
    """Each channel scaled by what the mean of all channels says."""

    def __init__(self, dim: int, ratio: float = 0.0625):
        super().__init__()
        self.reduce, self.expand = Conv(dim, int(dim * ratio)), Conv(int(dim * ratio), dim)

    def __call__(self, x: mx.array) -> mx.array:
        return x * mx.sigmoid(self.expand(nn.relu(self.reduce(x.mean((1, 2), keepdims=True)))))


class MobileOne(nn.Module):
    """A convolution, channels scaled if asked, and GELU."""

    def __init__(self, *sizes: int, scaled: bool = False):
        super().__init__()
        self.reparam_conv = Conv(*sizes)  # type: ignore[arg-type]
        if scaled:
            self.se = SqueezeExcite(sizes[1])

    def __call__(self, x: mx.array) -> mx.array:
        x = self.reparam_conv(x)
        return ops.gelu(self.se(x) if "se" in self else x)


class LargeKernel(nn.Module):
    """What makes the next stage's channels and halves the size."""

    def __init__(self, dim: int, out: int, kernel: int, stride: int):
        super().__init__()
        self.lkb_reparam = Conv(dim, out, kernel, stride, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.gelu(self.lkb_reparam(x))


class PatchEmbed(nn.Module):
    """Between two stages."""

    def __init__(self, dim: int, out: int, kernel: int, stride: int):
        super().__init__()
        self.proj = [LargeKernel(dim, out, kernel, stride), MobileOne(out, out)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj[1](self.proj[0](x))


class Stem(nn.Module):
    """Pixels to the first stage, a quarter of the size."""

    def __init__(self, dim: int):
        super().__init__()
        self.blocks = [MobileOne(3, dim, 3, 2), MobileOne(dim, dim, 3, 2, dim), MobileOne(dim, dim)]

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x = block(x)
        return x


class NormedConv(nn.Module):
    """A depthwise convolution and the statistics of its training."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = Conv(dim, dim, 7, 1, dim, bias=False)
        self.bn = nn.BatchNorm(dim)

    def __call__(self, x: mx.array) -> mx.array:
        scale = self.bn.weight * mx.rsqrt(self.bn.running_var + self.bn.eps)
        return (self.conv(x) - self.bn.running_mean) * scale + self.bn.bias


class ConvFFN(nn.Module):
    """An MLP on each place, after a look at its neighbours."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.conv, self.fc1, self.fc2 = NormedConv(dim), Conv(dim, hidden), Conv(hidden, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(ops.gelu(self.fc1(self.conv(x))))


class Mixer(nn.Module):
    """A depthwise convolution; the residual is folded into it."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.reparam_conv = Conv(dim, dim, kernel, 1, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.reparam_conv(x)


class MixerBlock(nn.Module):
    def __init__(self, dim: int, hidden: int, kernel: int):
        super().__init__()
        self.token_mixer, self.convffn = Mixer(dim, kernel), ConvFFN(dim, hidden)
        self.layer_scale = mx.ones((1, 1, dim))

    def __call__(self, x: mx.array) -> mx.array:
        x = self.token_mixer(x)
        return x + self.layer_scale * self.convffn(x)


class Attention(nn.Module):
    """Every place sees every other."""

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self._head_dim = head_dim

    def __call__(self, x: mx.array) -> mx.array:
        h = mx.unflatten(self.qkv(x.flatten(1, 2)), -1, (3, -1, self._head_dim))
        q, k, v = h.transpose(2, 0, 3, 1, 4)
        out = ops.attention(q, k, v, scale=self._head_dim**-0.5, mask=None)
        return self.proj(out.swapaxes(1, 2).flatten(-2)).reshape(x.shape)


class AttentionBlock(nn.Module):
    def __init__(self, dim: int, hidden: int, head_dim: int):
        super().__init__()
        self.norm = LayerNorm(dim, 1e-5)
        self.token_mixer, self.convffn = Attention(dim, head_dim), ConvFFN(dim, hidden)
        self.layer_scale_1, self.layer_scale_2 = mx.ones((1, 1, dim)), mx.ones((1, 1, dim))

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.layer_scale_1 * self.token_mixer(self.norm(x))
        return x + self.layer_scale_2 * self.convffn(x)


def stages(c: FastVitConfig) -> list:
    """Positions, blocks and what leads to the next stage, in order; a stage's blocks are a list."""

    def block(i: int) -> nn.Module:
        dim, hidden = c.embed_dims[i], int(c.embed_dims[i] * c.mlp_ratios[i])
        if c.token_mixers[i] == "attention":
            return AttentionBlock(dim, hidden, c.head_dim)
        if c.token_mixers[i] != "repmixer":
            raise ConfigError("this token mixer is not known", where="config.json", found=repr(c.token_mixers[i]))
        return MixerBlock(dim, hidden, c.repmixer_kernel_size)

    network: list = []
    for i, depth in enumerate(c.layers):
        if shape := c.pos_embs_shapes[i]:
            network.append(Mixer(c.embed_dims[i], shape[0]))
        network.append([block(i) for _ in range(depth)])
        if i + 1 < len(c.layers):
            network.append(PatchEmbed(c.embed_dims[i], c.embed_dims[i + 1], c.down_patch_size, c.down_stride))
    return network


class FastVit(nn.Module):
    """Pixels (N, 3, H, W) to features (N, H / stride * W / stride, out_dim)."""

    def __init__(self, c: FastVitConfig):
        super().__init__()
        dim = c.embed_dims[-1]
        self.patch_embed, self.network = Stem(c.embed_dims[0]), stages(c)
        self.conv_exp = MobileOne(dim, c.out_dim, 3, 1, dim, scaled=True)

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.patch_embed(pixels.transpose(0, 2, 3, 1).astype(self.conv_exp.reparam_conv.weight.dtype))
        for part in self.network:
            for block in part if isinstance(part, list) else [part]:
                x = block(x)
        return self.conv_exp(x).flatten(1, 2)
