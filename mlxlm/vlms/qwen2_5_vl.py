"""Qwen 2.5 VL: a tower most of whose blocks see windows only, before Qwen 2 with positions in three directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture, TextHalf
from ..layers import GatedMLP, RMSNorm, gated
from ..vision.positions import GridPositions
from ..vision.qwen import Attention, Block, GridConfig, Patches, Tower, by_grid, patches_to_mlx, windows
from ..vlm import Sight, VisionLanguage
from ..weights import Each, Rename, TextRules

EPS = 1e-6


@dataclass(kw_only=True)
class VisionConfig(GridConfig):
    depth: int = 32
    hidden_size: int = 3584
    out_hidden_size: int = 3584
    intermediate_size: int = 3420
    tokens_per_second: float | None = 4
    window_size: int = 112
    fullatt_block_indexes: list[int] = field(default_factory=lambda: [7, 15, 23, 31])


@dataclass(kw_only=True)
class Config:
    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 151_655
    video_token_id: int = 151_656


class Merger(nn.Module):
    """A block of patches, normed one by one, to one row."""

    def __init__(self, c: GridConfig, norm: nn.Module):
        super().__init__()
        wide = c.hidden_size * c.spatial_merge_size**2
        self.ln_q = norm
        self.mlp = [nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, c.out_hidden_size)]
        self._wide = wide

    def __call__(self, x: mx.array) -> mx.array:
        x = self.ln_q(x).reshape(-1, self._wide)
        for layer in self.mlp:
            x = layer(x)
        return x


def tower(c: VisionConfig) -> Tower:
    norm = partial(RMSNorm, c.hidden_size, EPS)
    glu = gated(c.hidden_act)

    def block() -> Block:
        return Block(Attention(c), GatedMLP(c.hidden_size, c.intermediate_size, glu=glu, bias=True), norm)

    side = c.window_size // c.spatial_merge_size // c.patch_size
    return Tower(c, Patches(c, bias=False), block, Merger(c, norm()), near=windows(side), far=c.fullatt_block_indexes)


def sights(c, tower: Tower) -> tuple[Sight, Sight]:
    """Images and videos, as all of the family name them."""
    return (
        Sight(("pixel_values", "image_grid_thw"), c.image_token_id, tower.look, by_grid),
        Sight(("pixel_values_videos", "video_grid_thw"), c.video_token_id, tower.look, by_grid),
    )


def build(c: Config) -> VisionLanguage:
    seeing = tower(c.vision_config)

    def interval(media: Mapping[str, mx.array], name: str, i: int) -> float:
        """How many positions lie between two frames: only a video's take time."""
        if name != "video_grid_thw":
            return 1.0
        seconds = float(media["second_per_grid_ts"][i].item()) if "second_per_grid_ts" in media else 1.0  # type: ignore
        return (c.vision_config.tokens_per_second or 1.0) * seconds

    kinds = ((c.image_token_id, "image_grid_thw"), (c.video_token_id, "video_grid_thw"))
    positions = GridPositions(c.vision_config.spatial_merge_size, *kinds, interval=interval)
    decoder = c.text_config.build()
    return VisionLanguage(
        seeing, decoder, sights(c, seeing), positions=positions, beside=("second_per_grid_ts",)
    )


NAMES = (
    Rename("^visual", "vision_tower"),
    Rename("^model.visual", "vision_tower"),
    Rename("^model.language_model", "language_model.model"),
    Rename("^lm_head", "language_model.lm_head"),
    Rename("^model", "language_model.model"),
    TextRules(),
)
VALUES = (Each("^vision_tower.patch_embed.proj.weight", patches_to_mlx), TextRules(kind="values"))
SAVED = (TextRules(kind="saved"),)
ARCHITECTURE = Architecture(Config, build, NAMES, VALUES, SAVED)
