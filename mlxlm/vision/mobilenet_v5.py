"""MobileNet V5, Gemma 3n's tower: convolutions, then attention with one key and value for all heads; two sizes meet.

Layout (N, rows, columns, channels). The blocks are given in timm's short words, which name their kernels, strides,
expansion, heads and channels (Qin et al., MobileNetV4, for the blocks).
"""

import re
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from ..errors import ConfigError, UsageError
from ..kernels import ops
from ..layers import RMSNorm
from .convs import SameConv

EPS = 1e-6
BLOCKS = (
    ("er_k3_s2_e4_c128", *["er_k3_s1_e4_c128"] * 2),
    ("uir_a3_k5_s2_e6_c256", *["uir_a5_k0_s1_e4_c256", "uir_a3_k0_s1_e4_c256"] * 2),
    ("uir_a5_k5_s2_e6_c640", *["uir_a5_k0_s1_e4_c640"] * 7, "uir_a0_k0_s1_e1_c640",
     *["mqa_k3_h12_v2_s1_d64_c640", "uir_a0_k0_s1_e2_c640"] * 14),
    ("uir_a5_k5_s2_e6_c1280", *["mqa_k3_h16_s1_d96_c1280", "uir_a0_k0_s1_e2_c1280"] * 19),
)  # fmt: skip


@dataclass(kw_only=True)
class MobileNetConfig:
    UNREAD = frozenset({"do_pooling", "model_args", "num_classes", "label_names", "pretrained_cfg", "global_pool",
                        "vocab_size", "vocab_offset", "rms_norm_eps", "transformers_weights"})  # fmt: skip

    architecture: str = "mobilenetv5_300m_enc"
    hidden_size: int = 2048
    blocks: list = field(default_factory=lambda: [list(stage) for stage in BLOCKS])
    stem_size: int = 64
    output_side: int = 16

    def __post_init__(self):
        if self.architecture != "mobilenetv5_300m_enc":
            raise ConfigError("this tower is not known", where="config.json", found=repr(self.architecture),
                              expected="mobilenetv5_300m_enc")
        words = [word for stage in self.blocks for word in stage]
        if wrong := [w for w in words if not re.fullmatch(r"(er|uir|mqa)(_[akshvdec]\d+)+", w)]:
            raise ConfigError("this block is not known", where="config.json", found=repr(wrong[0])[:60])


class NormedConv(nn.Module):
    """A convolution, an RMS norm, and GELU if asked."""

    def __init__(self, *sizes: int, bias: bool = False, act: bool = True):
        super().__init__()
        self.conv, self.bn, self._act = SameConv(*sizes, bias=bias), RMSNorm(sizes[1], EPS), act

    def __call__(self, x: mx.array) -> mx.array:
        x = self.bn(self.conv(x))
        return ops.gelu_tanh(x) if self._act else x


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = mx.ones((dim,))

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.gamma


class Edge(nn.Module):
    """A full convolution to more channels, then a projection."""

    def __init__(self, dim: int, w: dict[str, int]):
        super().__init__()
        wide = even(dim * w["e"])
        self.conv_exp, self.bn1 = SameConv(dim, wide, w["k"], w["s"], bias=False), RMSNorm(wide, EPS)
        self.conv_pwl, self.bn2 = SameConv(wide, w["c"], bias=False), RMSNorm(w["c"], EPS)
        self._skips = dim == w["c"] and w["s"] == 1

    def __call__(self, x: mx.array) -> mx.array:
        y = self.bn2(self.conv_pwl(ops.gelu_tanh(self.bn1(self.conv_exp(x)))))
        return x + y if self._skips else y


class Inverted(nn.Module):
    """More channels and back, with depthwise convolutions before or between where their kernels aren't 0."""

    def __init__(self, dim: int, w: dict[str, int], *, scaled: bool = True):
        super().__init__()
        wide, stride = even(dim * w["e"]), w["s"]
        if w["a"]:
            self.dw_start = NormedConv(dim, dim, w["a"], 1 if w["k"] else stride, dim, act=False)
        self.pw_exp = NormedConv(dim, wide)
        if w["k"]:
            self.dw_mid = NormedConv(wide, wide, w["k"], stride, wide)
        self.pw_proj = NormedConv(wide, w["c"], act=False)
        if scaled:
            self.layer_scale = Scale(w["c"])
        self._skips = scaled and dim == w["c"] and stride == 1

    def __call__(self, x: mx.array) -> mx.array:
        y = x
        for name in ("dw_start", "pw_exp", "dw_mid", "pw_proj", "layer_scale"):
            y = self[name](y) if name in self else y
        return x + y if self._skips else y


class Reduced(nn.Module):
    """Keys or values: fewer places if asked, then one head's worth of channels."""

    def __init__(self, dim: int, w: dict[str, int]):
        super().__init__()
        if w["v"] > 1:
            self.down_conv, self.norm = SameConv(dim, dim, w["k"], w["v"], dim, bias=False), RMSNorm(dim, EPS)
        self.proj = SameConv(dim, w["d"], bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, rows, columns, dim) to (N, 1, places, head_dim)."""
        x = self.norm(self.down_conv(x)) if "down_conv" in self else x
        return self.proj(x).flatten(1, 2)[:, None]


class Projected(nn.Module):
    """A projection, a level deeper than elsewhere."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.proj = SameConv(dim, out, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(x)


class MultiQuery(nn.Module):
    def __init__(self, dim: int, w: dict[str, int]):
        super().__init__()
        self.query, self.output = Projected(dim, w["h"] * w["d"]), Projected(w["h"] * w["d"], w["c"])
        self.key, self.value = Reduced(dim, w), Reduced(dim, w)
        self._head_dim = w["d"]

    def __call__(self, x: mx.array) -> mx.array:
        q = mx.unflatten(self.query(x).flatten(1, 2), -1, (-1, self._head_dim)).swapaxes(1, 2)
        out = ops.attention(q, self.key(x), self.value(x), scale=self._head_dim**-0.5, mask=None)
        return self.output(mx.unflatten(out.swapaxes(1, 2).flatten(-2), 1, x.shape[1:3]))


class AttentionBlock(nn.Module):
    """x + scale * attention(norm(x))."""

    def __init__(self, dim: int, w: dict[str, int]):
        super().__init__()
        self.norm, self.attn, self.layer_scale = RMSNorm(dim, EPS), MultiQuery(dim, w), Scale(w["c"])

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.layer_scale(self.attn(self.norm(x)))


KINDS = {"er": Edge, "uir": Inverted, "mqa": AttentionBlock}


def block(dim: int, word: str) -> tuple[nn.Module, int]:
    """The block that timm's word for it describes, and its channels."""
    kind, *parts = word.split("_")
    w = {"a": 0, "k": 0, "v": 1, "s": 1, "e": 1, **{part[0]: int(part[1:]) for part in parts}}
    return KINDS[kind](dim, w), w["c"]


def even(channels: float) -> int:
    """Channels as a multiple of 8, not much fewer than asked for."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


class Fusion(nn.Module):
    """The last two stages at the size of the first of them, then pooled."""

    def __init__(self, dim: int, out: int, side: int):
        super().__init__()
        self.ffn = Inverted(dim, {"a": 0, "k": 0, "s": 1, "e": 2, "c": out}, scaled=False)
        self.norm, self._side = RMSNorm(out, EPS), side

    def __call__(self, large: mx.array, small: mx.array) -> mx.array:
        """Two stages' outputs to (N, side, side, out)."""
        rows, columns = large.shape[1:3]
        each = rows // self._side
        if rows != columns or rows != each * self._side or rows % small.shape[1]:
            raise UsageError("the image isn't of a size that the tower takes", where="pixel_values",
                             found=f"{rows} x {columns} features", expected=f"sides that {self._side} divides")
        times = rows // small.shape[1]
        small = mx.repeat(mx.repeat(small, times, axis=1), times, axis=2)
        x = self.ffn(mx.concatenate([large, small], axis=-1))
        return self.norm(x.reshape(len(x), self._side, each, self._side, each, -1).mean((2, 4)))


class MobileNetV5(nn.Module):
    """Pixels (N, 3, H, W) to features (N, side², hidden_size)."""

    def __init__(self, c: MobileNetConfig):
        super().__init__()
        self.conv_stem = NormedConv(3, c.stem_size, 3, 2, bias=True)
        dim, self.blocks, widths = c.stem_size, [], []
        for words in c.blocks:
            stage = []
            for word in words:
                made, dim = block(dim, word)
                stage.append(made)
            self.blocks.append(stage)
            widths.append(dim)
        self.msfa = Fusion(sum(widths[-2:]), c.hidden_size, c.output_side)

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.conv_stem(pixels.transpose(0, 2, 3, 1).astype(self.conv_stem.bn.weight.dtype))
        stages = []
        for stage in self.blocks:
            for made in stage:
                x = made(x)
            stages.append(x)
        return self.msfa(*stages[-2:]).flatten(1, 2)
