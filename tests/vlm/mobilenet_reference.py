"""MobileNet V5's encoder in plain PyTorch, from timm's description of it: what transformers takes from timm."""

import torch
import torch.nn.functional as F
from torch import nn

STAGES = [
    ["er_k3_s2_e4_c16", "er_k3_s1_e4_c16"],
    ["uir_a3_k5_s2_e6_c24", "uir_a5_k0_s1_e4_c24"],
    ["uir_a5_k5_s2_e6_c32", "uir_a0_k0_s1_e1_c32", "mqa_k3_h4_v2_s1_d16_c32", "uir_a0_k0_s1_e2_c32"],
    ["uir_a5_k5_s2_e6_c48", "mqa_k3_h4_s1_d24_c48", "uir_a0_k0_s1_e2_c48"],
]
STEM, OUT, SIDE = 16, 32, 2


class Norm(nn.Module):
    """RMS over the channels; GELU by the tanh form where ``act``."""

    def __init__(self, dim, act=False):
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.ones(dim)), act

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.weight[:, None, None]
        return F.gelu(x, approximate="tanh") if self.act else x


class Conv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same"."""

    def __init__(self, dim, out, kernel=1, stride=1, groups=1, bias=False):
        super().__init__(dim, out, kernel, stride, groups=groups, bias=bias)

    def forward(self, x):
        (k, _), (s, _) = self.kernel_size, self.stride
        pads = [max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[:-3:-1]]
        x = F.pad(x, [side for p in pads for side in (p // 2, p - p // 2)])
        return F.conv2d(x, self.weight, self.bias, s, groups=self.groups)


class ConvNorm(nn.Module):
    def __init__(self, *sizes, act=False, **more):
        super().__init__()
        self.conv, self.bn = Conv(*sizes, **more), Norm(sizes[1], act)

    def forward(self, x):
        return self.bn(self.conv(x))


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * self.gamma[:, None, None]


class Edge(nn.Module):
    def __init__(self, dim, e, c, k, s):
        super().__init__()
        self.conv_exp, self.bn1 = Conv(dim, e * dim, k, s), Norm(e * dim, True)
        self.conv_pwl, self.bn2, self.skip = Conv(e * dim, c), Norm(c), s == 1

    def forward(self, x):
        y = self.bn2(self.conv_pwl(self.bn1(self.conv_exp(x))))
        return x + y if self.skip else y


class Inverted(nn.Module):
    def __init__(self, dim, e, c, k=0, s=1, a=0, skip=True):
        super().__init__()
        self.dw_start = ConvNorm(dim, dim, a, 1 if k else s, dim) if a else nn.Identity()
        self.pw_exp = ConvNorm(dim, e * dim, act=True)
        self.dw_mid = ConvNorm(e * dim, e * dim, k, s, e * dim, act=True) if k else nn.Identity()
        self.pw_proj = ConvNorm(e * dim, c)
        self.layer_scale = Scale(c) if skip else nn.Identity()
        self.skip = skip and s == 1 and dim == c

    def forward(self, x):
        y = self.layer_scale(self.pw_proj(self.dw_mid(self.pw_exp(self.dw_start(x)))))
        return x + y if self.skip else y


class Attention(nn.Module):
    def __init__(self, dim, c, k, h, d, v=1, s=1):
        super().__init__()
        small = {"down_conv": Conv(dim, dim, k, v, dim), "norm": Norm(dim)} if v > 1 else {}
        again = {"down_conv": Conv(dim, dim, k, v, dim), "norm": Norm(dim)} if v > 1 else {}
        self.norm, self.attn, self.layer_scale = Norm(dim), nn.Module(), Scale(c)
        self.attn.query = nn.ModuleDict({"proj": Conv(dim, h * d)})
        self.attn.key = nn.ModuleDict({**small, "proj": Conv(dim, d)})
        self.attn.value = nn.ModuleDict({**again, "proj": Conv(dim, d)})
        self.attn.output = nn.ModuleDict({"proj": Conv(h * d, c)})
        self.heads = h

    def forward(self, x):
        def run(part, y):
            for layer in part.values():
                y = layer(y)
            return y.flatten(2)

        y = self.norm(x)
        q = run(self.attn.query, y).unflatten(1, (self.heads, -1)).transpose(-1, -2)
        k, v = run(self.attn.key, y)[:, None], run(self.attn.value, y)[:, None].transpose(-1, -2)
        out = (q @ k * q.shape[-1] ** -0.5).softmax(-1) @ v
        out = out.transpose(-1, -2).flatten(1, 2).unflatten(-1, y.shape[-2:])
        return x + self.layer_scale(self.attn.output["proj"](out))


def block(dim, word):
    kind, *parts = word.split("_")
    w = {p[0]: int(p[1:]) for p in parts}
    return {"er": Edge, "uir": Inverted, "mqa": Attention}[kind](dim, **w), w["c"]


class Encoder(nn.Module):
    """Pixels to (N, OUT, SIDE, SIDE)."""

    def __init__(self):
        super().__init__()
        self.conv_stem = ConvNorm(3, STEM, 3, 2, act=True, bias=True)
        dim, stages, ends = STEM, [], []
        for words in STAGES:
            blocks = []
            for word in words:
                made, dim = block(dim, word)
                blocks.append(made)
            stages.append(nn.Sequential(*blocks))
            ends.append(dim)
        self.blocks = nn.Sequential(*stages)
        self.msfa = nn.Module()
        self.msfa.ffn, self.msfa.norm = Inverted(sum(ends[-2:]), 2, OUT, skip=False), Norm(OUT)

    def forward(self, x):
        outs = [self.conv_stem(x)]
        for stage in self.blocks:
            outs.append(stage(outs[-1]))
        large, small = outs[-2:]
        x = self.msfa.ffn(torch.cat([large, F.interpolate(small, size=large.shape[-2:], mode="nearest")], 1))
        return self.msfa.norm(F.adaptive_avg_pool2d(x, SIDE))
