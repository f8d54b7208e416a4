"""FastViT HD in plain PyTorch, from the paper and the names of Apple's checkpoints; transformers takes it from timm."""

import torch
import torch.nn.functional as F

TINY = dict(
    layers=[1, 2, 1], embed_dims=[8, 16, 32], mlp_ratios=[2, 2, 3], token_mixers=["repmixer", "repmixer", "attention"],
    pos_embs_shapes=[None, None, [7, 7]], head_dim=8,
)  # fmt: skip
SQUEEZE = 0.0625


def shapes(c):
    """{name: shape} of every tensor of the tower, in PyTorch's layout."""
    out, dims = {}, c["embed_dims"]

    def conv(name, dim, to, kernel, groups=1, bias=True):
        out[f"{name}.weight"] = (to, dim // groups, kernel, kernel)
        if bias:
            out[f"{name}.bias"] = (to,)

    def ffn(name, dim, hidden):
        conv(f"{name}.conv.conv", dim, dim, 7, dim, bias=False)
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.conv.bn.{part}"] = (dim,)
        conv(f"{name}.fc1", dim, hidden, 1)
        conv(f"{name}.fc2", hidden, dim, 1)

    for i, (dim, kernel, groups) in enumerate(((3, 3, 1), (dims[0], 3, dims[0]), (dims[0], 1, 1))):
        conv(f"patch_embed.{i}.reparam_conv", dim, dims[0], kernel, groups)
    place = 0
    for i, (dim, depth) in enumerate(zip(dims, c["layers"], strict=True)):
        if c["pos_embs_shapes"][i]:
            conv(f"network.{place}.reparam_conv", dim, dim, 7, dim)
            place += 1
        for j in range(depth):
            name = f"network.{place}.{j}"
            ffn(f"{name}.convffn", dim, dim * c["mlp_ratios"][i])
            if c["token_mixers"][i] == "attention":
                out |= {f"{name}.norm.weight": (dim,), f"{name}.norm.bias": (dim,)}
                out |= {f"{name}.layer_scale_{n}": (dim, 1, 1) for n in (1, 2)}
                out |= {f"{name}.token_mixer.qkv.weight": (3 * dim, dim), f"{name}.token_mixer.proj.bias": (dim,)}
                out[f"{name}.token_mixer.proj.weight"] = (dim, dim)
            else:
                out[f"{name}.layer_scale"] = (dim, 1, 1)
                conv(f"{name}.token_mixer.reparam_conv", dim, dim, 3, dim)
        place += 1
        if i + 1 < len(dims):
            conv(f"network.{place}.proj.0.lkb_reparam", dim, dims[i + 1], 7, dim)
            conv(f"network.{place}.proj.1.reparam_conv", dims[i + 1], dims[i + 1], 1)
            place += 1
    conv("conv_exp.reparam_conv", dims[-1], 2 * dims[-1], 3, dims[-1])
    conv("conv_exp.se.reduce", 2 * dims[-1], int(2 * dims[-1] * SQUEEZE), 1)
    conv("conv_exp.se.expand", int(2 * dims[-1] * SQUEEZE), 2 * dims[-1], 1)
    return out


def weights(c, seed=3):
    """Random tensors; variances are positive."""
    g = torch.Generator().manual_seed(seed)

    def tensor(name, shape):
        noise = torch.randn(shape, generator=g)
        if name.endswith("running_var"):
            return 0.5 + noise.abs()
        if len(shape) == 1 or "layer_scale" in name:
            return (1.0 if "weight" in name or "scale" in name else 0.0) + 0.3 * noise
        return noise * 1.3 / (noise[0].numel() ** 0.5)

    return {name: tensor(name, shape) for name, shape in shapes(c).items()}


def features(w, c, x):
    """Pixels (N, 3, H, W) to (N, places, channels)."""

    def conv(name, x, stride=1):
        weight = w[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, w.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)

    def ffn(name, x):
        x = conv(f"{name}.conv.conv", x)
        bn = [w[f"{name}.conv.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *bn, training=False, eps=1e-5)
        return conv(f"{name}.fc2", F.gelu(conv(f"{name}.fc1", x)))

    def attention(name, x):
        n, dim, h, wide = x.shape
        qkv = x.flatten(2).transpose(1, 2) @ w[f"{name}.qkv.weight"].T
        q, k, v = qkv.reshape(n, h * wide, 3, -1, c["head_dim"]).permute(2, 0, 3, 1, 4)
        x = (q @ k.transpose(-1, -2) * c["head_dim"] ** -0.5).softmax(-1) @ v
        x = x.transpose(1, 2).reshape(n, h * wide, dim) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]
        return x.transpose(1, 2).reshape(n, dim, h, wide)

    def block(name, x):
        if f"{name}.layer_scale" in w:
            x = conv(f"{name}.token_mixer.reparam_conv", x)
            return x + w[f"{name}.layer_scale"] * ffn(f"{name}.convffn", x)
        normed = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
        x = x + w[f"{name}.layer_scale_1"] * attention(f"{name}.token_mixer", normed.permute(0, 3, 1, 2))
        return x + w[f"{name}.layer_scale_2"] * ffn(f"{name}.convffn", x)

    for i, stride in enumerate((2, 2, 1)):
        x = F.gelu(conv(f"patch_embed.{i}.reparam_conv", x, stride))
    place = 0
    for i, depth in enumerate(c["layers"]):
        if c["pos_embs_shapes"][i]:
            x = conv(f"network.{place}.reparam_conv", x)
            place += 1
        for j in range(depth):
            x = block(f"network.{place}.{j}", x)
        place += 1
        if i + 1 < len(c["layers"]):
            x = F.gelu(conv(f"network.{place}.proj.0.lkb_reparam", x, 2))
            x = F.gelu(conv(f"network.{place}.proj.1.reparam_conv", x))
            place += 1
    x = conv("conv_exp.reparam_conv", x)
    gate = conv("conv_exp.se.expand", F.relu(conv("conv_exp.se.reduce", x.mean((2, 3), keepdim=True)))).sigmoid()
    return F.gelu(x * gate).flatten(2).transpose(1, 2)
