"""FastVLM: FastViT HD, whose features are few, through two linear maps into Qwen 2.

Its makers give every image the token -200, which no vocabulary has; here it keeps one place for each feature.
"""

import re
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture, TextHalf
from ..errors import ConfigError
from ..vision.fastvit import FastVit, FastVitConfig
from ..vlm import Item, Sight, VisionLanguage
from ..weights import Drop, Each, Rename, TextRules

IMAGE_TOKEN = -200


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({"vocab_size", "ignore_index", "tie_word_embeddings"})

    text_config: TextHalf
    vision_config: FastVitConfig = field(default_factory=FastVitConfig)
    image_token_index: int = IMAGE_TOKEN
    mm_projector_type: str = "mlp2x_gelu"
    mm_hidden_size: int | None = None
    mm_use_im_start_end: bool = False
    mm_patch_merge_type: str = "flat"

    def __post_init__(self):
        if self.mm_hidden_size not in (None, self.vision_config.out_dim):
            raise ConfigError("mm_hidden_size isn't the width of the tower's features", where="config.json",
                              found=self.mm_hidden_size, expected=self.vision_config.out_dim)
        if self.mm_use_im_start_end or self.mm_patch_merge_type != "flat":
            raise ConfigError("this way of joining images and text is not known", where="config.json",
                              found=f"mm_use_im_start_end {self.mm_use_im_start_end}, "
                                    f"mm_patch_merge_type {self.mm_patch_merge_type!r}")


def projector(kind: str, dim: int, out: int) -> list[nn.Module]:
    """The linear maps that ``mm_projector_type`` names, GELU between them. Raises ConfigError."""
    found = re.fullmatch(r"mlp([1-9])x_gelu", kind)
    if found is None:
        raise ConfigError("this mm_projector_type is not known", where="config.json", found=repr(kind)[:60],
                          expected="mlp2x_gelu")
    layers: list[nn.Module] = [nn.Linear(dim, out)]
    for _ in range(1, int(found[1])):
        layers += [nn.GELU(), nn.Linear(out, out)]
    return layers


def build(c: Config) -> VisionLanguage:
    decoder, tower = c.text_config.build(), FastVit(c.vision_config)
    maps = projector(c.mm_projector_type, c.vision_config.out_dim, c.text_config.config.hidden_size)

    def look(item: Item) -> mx.array:
        x = tower(item["pixel_values"])
        for layer in maps:
            x = layer(x)
        return x

    sight = Sight(("pixel_values",), c.image_token_index, look)
    return VisionLanguage(tower, decoder, [sight], beside=("image_sizes",), mm_projector=maps)  # type: ignore[arg-type]


def to_mlx(w: mx.array, config: Config) -> mx.array:
    """Convolutions and scales of channels, which PyTorch has first but for their number, with channels last."""
    return w.transpose(0, 2, 3, 1) if w.ndim == 4 else w.transpose(1, 2, 0) if w.ndim == 3 else w


NAMES = (
    Rename("^model.vision_tower.vision_tower.model", "vision_tower"),
    Rename("^vision_tower.vision_model", "vision_tower"),  # as mlx-vlm writes it
    Rename("^model.mm_projector", "mm_projector"),
    Rename("^lm_head", "language_model.lm_head"),
    Rename("^model", "language_model.model"),
    *(Rename(f"^vision_tower.patch_embed.{i}", f"vision_tower.patch_embed.blocks.{i}") for i in range(3)),
    Drop("^vision_tower.head"),  # pools the whole image for contrast
    Drop("num_batches_tracked"),
    TextRules(),
)
VALUES = (Each("^vision_tower", to_mlx), TextRules(kind="values"))
ARCHITECTURE = Architecture(Config, build, NAMES, VALUES, (Rename("^vision_tower", "vision_tower.vision_model"),))
