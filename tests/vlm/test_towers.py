"""The towers agree with transformers' on random weights: every hidden state, and the last one normed."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PixtralVisionConfig,
    PixtralVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionConfig, Idefics3VisionTransformer

from mlxlm.errors import ConfigError, UsageError
from mlxlm.vision import clip, pixtral, siglip, siglip2, vit

SIZES = dict(
    hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7
)


def of(kind, config, **more):
    """A reference tower with random weights, eager, in float32."""
    torch.manual_seed(5)
    tower = kind._from_config(config(**{**SIZES, **more}), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in tower.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.3 if p.ndim == 1 else 1.2 / p.shape[-1] ** 0.5))
            if "norm" in name and name.endswith("weight"):
                p.add_(1.0)
    return tower


def like(ours, tower):
    """Our tower with the reference's weights, all of which it must take but those of a pooling head."""
    weights = []
    for name, p in tower.named_parameters():
        if not name.startswith("head."):
            w = mx.array(p.detach().numpy())
            weights.append((name, vit.patches_to_mlx(w, None) if w.ndim == 4 else w))
    ours.load_weights(weights)
    return ours


def close(ours, theirs):
    ours, theirs = np.array(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def pixels(*shape):
    return np.random.RandomState(3).randn(*shape).astype(np.float32)


@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu", "quick_gelu"])
def test_siglip(act):
    tower = of(SiglipVisionModel, SiglipVisionConfig, hidden_act=act)
    x = pixels(2, 3, 28, 28)
    theirs = tower(torch.tensor(x), output_hidden_states=True)
    ours = like(siglip.Siglip(siglip.SiglipConfig(**SIZES, hidden_act=act)), tower)
    close(ours(mx.array(x)), theirs.last_hidden_state)
    for one, other in zip(ours.states(mx.array(x)), theirs.hidden_states, strict=True):
        close(one, other)


def test_clip():
    tower = of(CLIPVisionModel, CLIPVisionConfig)
    x = pixels(2, 3, 28, 28)
    theirs = tower(torch.tensor(x), output_hidden_states=True)
    ours = like(clip.Clip(clip.ClipConfig(**SIZES)), tower)
    for one, other in zip(ours.states(mx.array(x)), theirs.hidden_states, strict=True):
        close(one, other)


@pytest.mark.parametrize("sizes", [[(28, 28)], [(28, 14), (21, 42), (7, 7)]], ids=["one", "several"])
def test_pixtral(sizes):
    tower = of(PixtralVisionModel, PixtralVisionConfig, rope_parameters={"rope_type": "axial", "rope_theta": 500.0})
    x = pixels(len(sizes), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    theirs = tower(torch.tensor(x), image_sizes=sizes, output_hidden_states=True)
    ours = like(pixtral.Pixtral(pixtral.PixtralConfig(**SIZES, rope_theta=500.0)), tower)
    for one, other in zip(ours.states(mx.array(x), sizes), theirs.hidden_states, strict=True):
        close(one, other)


GRIDS = [(4, 4), (2, 7), (9, 3), (1, 5)]


def test_siglip2():
    sizes = {k: v for k, v in SIZES.items() if k != "image_size"}
    tower = of(Siglip2VisionModel, lambda **c: Siglip2VisionConfig(**{**sizes, "num_patches": 25}))
    x, mask = pixels(4, 30, 3 * 49), np.zeros((4, 30), np.int64)
    for row, (h, w) in zip(mask, GRIDS, strict=True):
        row[: h * w] = 1
    theirs = tower(torch.tensor(x), torch.tensor(mask), torch.tensor(GRIDS)).last_hidden_state
    ours = like(siglip2.Siglip2(siglip2.Siglip2Config(**sizes, num_patches=25)), tower)(mx.array(x), GRIDS)
    for i, (h, w) in enumerate(GRIDS):
        close(ours[i, : h * w], theirs[i, : h * w])


@pytest.mark.parametrize("old,new", [(16, 5), (16, 16), (16, 23), (7, 1), (1, 4)])
def test_resizing_is_torchs(old, new):
    table = pixels(old, old, 3)
    kwargs = dict(mode="bilinear", align_corners=False, antialias=True)
    theirs = torch.nn.functional.interpolate(torch.tensor(table).permute(2, 0, 1)[None], size=(new, 3), **kwargs)
    close(siglip2.resized(mx.array(table), (new, 3), new * 3), theirs[0].permute(1, 2, 0).reshape(new * 3, 3))


@pytest.mark.parametrize("side", [4, 10, 27])
def test_positions_over_parts_of_a_frame(side):
    """Every grid that fits, since a patch on a boundary falls by the last bit."""
    sizes = {**SIZES, "image_size": 2 * side, "patch_size": 2, "num_hidden_layers": 1, "hidden_size": 4}
    tower = of(Idefics3VisionTransformer, Idefics3VisionConfig, **sizes)
    grids = np.array([(h, w) for h in range(1, side + 1) for w in (1, side // 2, side)])
    mask = torch.zeros(len(grids), side, side, dtype=torch.bool)
    for row, (h, w) in zip(mask, grids, strict=True):
        row[:h, :w] = True
    x = torch.zeros(len(grids), 3, 2 * side, 2 * side)
    with torch.no_grad():
        tower.embeddings.patch_embedding.bias.zero_()
        tower.embeddings.position_embedding.weight.copy_(torch.arange(side * side)[:, None].expand(-1, 4))
        theirs = tower.embeddings(x, mask)[..., 0]
    ours = siglip.fractional_positions(grids, (side, side), side)
    assert np.array_equal(ours, theirs.numpy().astype(np.int32))


def test_idefics3_with_padded_images():
    tower = of(Idefics3VisionTransformer, Idefics3VisionConfig)
    x, mask = pixels(2, 3, 28, 28), torch.zeros(2, 4, 4, dtype=torch.bool)
    grids = np.array([(4, 4), (2, 3)])
    for row, (h, w) in zip(mask, grids, strict=True):
        row[:h, :w] = True
    theirs = tower(torch.tensor(x), mask).last_hidden_state
    ours = like(siglip.Siglip(siglip.SiglipConfig(**SIZES)), tower)
    positions = mx.array(siglip.fractional_positions(grids, (4, 4), 4))
    out = ours(mx.array(x), positions, mx.array(mask.flatten(1).numpy())[:, None, None])
    close(out[0], theirs[0])
    seen = mask[1].flatten()
    close(mx.array(np.array(out[1])[seen.numpy()]), theirs[1][seen])


def test_an_image_of_another_size_is_an_error():
    for tower in (siglip.Siglip(siglip.SiglipConfig(**SIZES)), clip.Clip(clip.ClipConfig(**SIZES))):
        with pytest.raises(UsageError, match="size that the tower takes"):
            tower(mx.zeros((1, 3, 35, 28)))


def test_chosen_layers():
    states = [mx.full((1, 3, 2), i) for i in range(4)]
    assert vit.chosen(states, -2, skip=1).tolist() == [[[2, 2], [2, 2]]]
    assert vit.chosen(states, [0, -1]).tolist() == [[[0, 0, 3, 3]] * 3]
    for wrong in (4, -5, []):
        with pytest.raises(ConfigError, match="vision_feature_layer"):
            vit.chosen(states, wrong)
