"""DeepSeek-VL: SigLIP before Llama; the larger one sees finer too, through SAM, and puts both side by side."""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture, TextHalf
from ..kernels import ops
from ..vision.convs import Conv
from ..vision.sam import Sam, SamConfig, linear, neck, through
from ..vision.siglip import Siglip, SiglipConfig
from ..vision.vit import patches_to_mlx
from ..vlm import Item, Sight, VisionLanguage
from ..weights import Drop, Each, Rename, TextRules


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({"tie_word_embeddings"})

    text_config: TextHalf
    vision_config: SiglipConfig = field(default_factory=SiglipConfig)
    high_res_vision_config: SamConfig | None = None
    image_token_id: int = 100_015


class Aligner(nn.Module):
    """Two linear maps."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, out), nn.Linear(out, out)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear2(ops.gelu(self.linear1(x)))


class HybridAligner(nn.Module):
    """What was seen finely and what was seen coarsely, each in half of the width, through one more map."""

    def __init__(self, coarse: int, fine: int, out: int):
        super().__init__()
        self.vision_proj, self.high_res_vision_proj = nn.Linear(coarse, out // 2), nn.Linear(fine, out // 2)
        self.proj = nn.Linear(out, out)

    def __call__(self, coarse: mx.array, fine: mx.array) -> mx.array:
        both = mx.concatenate([self.high_res_vision_proj(fine), self.vision_proj(coarse)], axis=-1)
        return self.proj(ops.gelu(both))


class FineTower(nn.Module):
    """SAM's features, and beside them those of its first layer that sees everything, at a quarter of SigLIP's grid."""

    def __init__(self, c: SamConfig, side: int):
        super().__init__()
        dim = c.output_channels
        self.model, self.neck, self.alpha = Sam(c), neck(c), mx.zeros((1,))
        self.proj = [Conv(dim, 2 * dim, 3, 2, bias=False), Conv(2 * dim, 4 * dim, 3, 2, bias=False)]
        self._early, self._side = c.global_attn_indexes[0] + 1, 4 * side

    def __call__(self, pixels: mx.array) -> mx.array:
        """(N, 3, H, W) to (N, side², 4 * output_channels)."""
        states = self.model.states(pixels)
        last = self._shrunk(through(self.model.neck, states[-1]))
        early = self._shrunk(through(self.neck, states[self._early]))
        return (last + early * self.alpha).flatten(1, 2)

    def _shrunk(self, x: mx.array) -> mx.array:
        rows = mx.array(linear(x.shape[1], self._side), x.dtype)
        tall = mx.unflatten(ops.matmul(rows, x.flatten(2)), -1, x.shape[2:])
        return through(self.proj, ops.matmul(rows, tall))


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.text_config.build(), Siglip(c.vision_config), c.vision_config
    width = c.text_config.config.hidden_size
    if c.high_res_vision_config is None:
        aligner = Aligner(vision.hidden_size, width)
        sight = Sight(("pixel_values",), c.image_token_id, lambda item: aligner(tower(item["pixel_values"])))
        return VisionLanguage(tower, decoder, [sight], aligner=aligner)
    fine = FineTower(c.high_res_vision_config, vision.side)
    both = HybridAligner(vision.hidden_size, 4 * c.high_res_vision_config.output_channels, width)

    def look(item: Item) -> mx.array:
        return both(tower(item["pixel_values"]), fine(item["high_res_pixel_values"]))

    sight = Sight(("pixel_values", "high_res_pixel_values"), c.image_token_id, look)
    return VisionLanguage(tower, decoder, [sight], aligner=both, vision_high_res=fine)


def to_mlx(w: mx.array, config: Config) -> mx.array:
    """Convolutions to MLX's layout."""
    return patches_to_mlx(w, config) if w.ndim == 4 else w


SAM = (
    Rename("^vision_high_res.model.vision_encoder", "vision_high_res.model"),
    Rename("^vision_high_res.model.patch_embed.projection", "vision_high_res.model.patch_embed.proj"),
    Rename("^vision_high_res.model.layers", "vision_high_res.model.blocks"),
    Rename("blocks.*.layer_norm1", "blocks.*.norm1"),
    Rename("blocks.*.layer_norm2", "blocks.*.norm2"),
    *(Rename(f"neck.{old}", f"neck.{i}") for i, old in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2"))),
)
NAMES = (
    Rename("^model.vision_model", "vision_tower"),
    Rename("^vision_tower.vision_model", "vision_tower"),  # transformers 4
    Rename("^model.aligner", "aligner"),
    *(Rename(f"^model.high_res_vision_{part}", f"vision_high_res.{part}") for part in ("model", "neck", "alpha")),
    Rename("^model.high_res_vision_proj.conv1", "vision_high_res.proj.0"),
    Rename("^model.high_res_vision_proj.conv2", "vision_high_res.proj.1"),
    *SAM,
    Rename("^model.language_model", "language_model.model"),
    Rename("^lm_head", "language_model.lm_head"),
    Drop("^vision_tower.head"),
    TextRules(),
)
VALUES = (
    Each("^vision_tower.embeddings.patch_embedding.weight", patches_to_mlx),
    *(Each(f"^vision_high_res.{part}", to_mlx) for part in ("model.patch_embed", "model.neck", "neck", "proj")),
    TextRules(kind="values"),
)
ARCHITECTURE = Architecture(Config, build, NAMES, VALUES)
