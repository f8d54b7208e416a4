"""LLaVA-NeXT: the image at a glance, then tile by tile, the tiles' padding cut off and each line of patches ended."""

from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx

from ..architecture import Architecture
from ..processors.grids import best_frame
from ..vision.vit import chosen
from ..vlm import Item, Sight, VisionLanguage
from . import llava
from .halves import SAVED, beside, names

FRAMES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(kw_only=True)
class Config(llava.Config):
    IMAGE_TOKEN: ClassVar[int] = 32_000
    UNREAD: ClassVar[frozenset[str]] = llava.Config.UNREAD | {"use_image_newline_parameter"}

    image_grid_pinpoints: list[Any] | None = None  # (height, width) of the frames that an image may be fitted into

    @property
    def frames(self) -> list[tuple[int, int]]:
        return [tuple(frame) for frame in self.image_grid_pinpoints or FRAMES]  # type: ignore[misc]


class LlavaNext(VisionLanguage):
    """Holds the embedding that ends each line of patches."""

    def __init__(self, *args, width: int, **parts):
        super().__init__(*args, **parts)
        self.image_newline = mx.zeros((width,))


def unpadded(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """How many patches at the top and at the left of a ``grid`` are padding, for an image of ``size``."""
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def lines(tiles: mx.array, size: tuple[int, int], shape: tuple[int, int], newline: mx.array) -> mx.array:
    """Tiles (n, patches, dim) that lie in ``shape`` as rows: their padding cut off, a ``newline`` after each line."""
    (down, across), side, dim = shape, int(tiles.shape[1] ** 0.5), tiles.shape[-1]
    x = tiles.reshape(down, across, side, side, dim).transpose(0, 2, 1, 3, 4).reshape(down * side, across * side, dim)
    top, left = unpadded(size, (x.shape[0], x.shape[1]))
    x = x[top : x.shape[0] - top, left : x.shape[1] - left]
    ends = mx.broadcast_to(newline.astype(x.dtype), (x.shape[0], 1, dim))
    return mx.concatenate([x, ends], axis=1).flatten(0, 1)


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.halves()
    pair = llava.projector(c, vision.hidden_size, decoder.config.hidden_size)

    def look(item: Item) -> mx.array:
        height, width = beside(item, "image_sizes")[0]
        frame = best_frame((height, width), c.frames)
        shape = (-(-frame[0] // vision.image_size), -(-frame[1] // vision.image_size))
        pixels = item["pixel_values"]
        pixels = pixels[0] if pixels.ndim == 5 else pixels  # (tiles, channels, height, width)
        pixels = pixels[: 1 + shape[0] * shape[1]]
        rows = pair(chosen(tower.states(pixels), c.vision_feature_layer, skip=c.skipped))
        if rows.shape[0] == 1:
            return mx.concatenate([rows[0], model.image_newline.astype(rows.dtype)[None]])
        return mx.concatenate([rows[0], lines(rows[1:], (height, width), shape, model.image_newline)])

    sight = Sight(("pixel_values", "image_sizes"), c.image_token, look)
    model = LlavaNext(tower, decoder, [sight], width=decoder.config.hidden_size, multi_modal_projector=pair)
    return model


ARCHITECTURE = Architecture(Config, build, names("multi_modal_projector", "image_newline"), llava.VALUES, SAVED)
