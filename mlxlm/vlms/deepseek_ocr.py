"""DeepSeek-OCR: a whole image and its tiles through SAM and CLIP, line by line, before a small mixture of experts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..architecture import Architecture, TextHalf
from ..errors import ConfigError
from ..vision.deepseek_ocr import Encoder, EncoderConfig
from ..vlm import Item, Sight, VisionLanguage
from ..weights import Drop, Each, Rename, Split, TextRules

NAMES = ("pixel_values", "pixel_values_local", "num_local_patches", "patches_grid")


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({
        "candidate_resolutions", "lm_head", "rm_head", "language_config", "tie_word_embeddings", "vocab_size", "pad_id",
        "num_image_tokens", "ignore_index", "select_layer", "vision_feature_select_strategy", "sam_config",
    })  # fmt: skip

    text_config: TextHalf
    vision_config: EncoderConfig = field(default_factory=EncoderConfig)
    projector_config: Any = None
    image_token_index: int = 128_815
    tile_tag: str = "2D"
    global_view_pos: str = "head"

    def __post_init__(self):
        kind = (self.projector_config or {}).get("projector_type", "linear")
        if kind != "linear" or self.tile_tag != "2D" or self.global_view_pos != "head":
            raise ConfigError("this way of joining images and text is not known", where="config.json",
                              found=f"projector_type {kind!r}, tile_tag {self.tile_tag!r}, "
                                    f"global_view_pos {self.global_view_pos!r}",
                              expected="linear, 2D and head")


class Projector(nn.Module):
    """One linear map."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.layers = nn.Linear(dim, out)

    def __call__(self, x: mx.array) -> mx.array:
        return self.layers(x)


class Lines(nn.Module):
    """What ends a line of an image, and the image."""

    def __init__(self, dim: int):
        super().__init__()
        self.image_newline, self.view_separator = mx.zeros((dim,)), mx.zeros((dim,))

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, columns, dim) line by line, (rows * (columns + 1), dim)."""
        ends = mx.broadcast_to(self.image_newline.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        return mx.concatenate([x, ends], axis=1).flatten(0, 1)


def images(media: Mapping[str, mx.array]) -> list[Item]:
    """Each image with its own tiles, of which all images' lie one after the other."""
    counts = media["num_local_patches"].tolist() if "num_local_patches" in media else [0] * len(media[NAMES[0]])
    items, first = [], 0
    for i, count in enumerate(counts):  # type: ignore[arg-type]
        item = {"pixel_values": media["pixel_values"][i : i + 1]}
        if count:
            item["pixel_values_local"] = media["pixel_values_local"][first : first + count]
            item["patches_grid"] = media["patches_grid"][i]
        first += count
        items.append(item)
    return items


def build(c: Config) -> VisionLanguage:
    decoder, tower, width = c.text_config.build(), Encoder(c.vision_config), c.text_config.config.hidden_size
    projector, lines = Projector(tower.width, width), Lines(width)

    def look(item: Item) -> mx.array:
        parts = [lines(projector(tower(item["pixel_values"]))[0])]
        if "pixel_values_local" in item:
            columns, rows = np.array(item["patches_grid"]).tolist()
            x = mx.unflatten(projector(tower(item["pixel_values_local"])), 0, (rows, columns))
            x = x.swapaxes(1, 2)  # (rows, rows of a tile, columns, columns of a tile, dim)
            parts.insert(0, lines(x.flatten(2, 3).flatten(0, 1)))
        return mx.concatenate([*parts, lines.view_separator[None].astype(parts[0].dtype)])

    sight = Sight(NAMES, c.image_token_index, look, images)
    return VisionLanguage(tower, decoder, [sight], projector=projector, lines=lines)


def to_mlx(w: mx.array, config: Config) -> mx.array:
    """Convolutions to MLX's layout."""
    return w.transpose(0, 2, 3, 1) if w.ndim == 4 else w


LINES = {"image_newline": "image_newline", "view_seperator": "view_separator", "view_separator": "view_separator"}
RULES = (
    *(Rename(f"^model.{part}", part) for part in ("sam_model", "vision_model", "projector", *LINES)),
    *(Rename(f"^{old}", f"lines.{new}") for old, new in LINES.items()),
    Rename("^sam_model", "vision_tower.sam_model"),
    Rename("^vision_model", "vision_tower.vision_model"),
    Split("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Drop("^vision_tower.vision_model.embeddings.patch_embedding"),  # SAM's features stand for patches
    Drop("^vision_tower.vision_model.embeddings.position_ids"),
    Rename("^lm_head", "language_model.lm_head"),
    Rename("^model", "language_model.model"),
    TextRules(),
)
CONVOLUTIONS = ("patch_embed", "neck", "net_2", "net_3")
VALUES = (*(Each(f"^vision_tower.sam_model.{part}", to_mlx) for part in CONVOLUTIONS), TextRules(kind="values"))
ARCHITECTURE = Architecture(Config, build, RULES, VALUES)
