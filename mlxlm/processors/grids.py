"""How families fit an image of any size into what their tower takes: plain arithmetic on heights and widths.

Sizes are (height, width), as everywhere in Hugging Face's processors.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

Size = tuple[int, int]


def shortest_edge(size: Size, edge: int) -> Size:
    """The size whose shorter side is ``edge``, in the same shape."""
    height, width = size
    long = int(edge * max(size) / min(size))
    return (long, edge) if width <= height else (edge, long)


def within(size: Size, frame: Size) -> Size:
    """The largest size of the same shape that fits a frame; a fraction of a pixel counts as one."""
    (height, width), (high, wide) = size, frame
    if wide / width < high / height:
        return min(math.ceil(height * (wide / width)), high), wide
    return high, min(math.ceil(width * (high / height)), wide)


def best_frame(size: Size, frames: Iterable[Sequence[int]]) -> Size:
    """The frame that keeps most of the image's pixels, and among those the one that wastes least (LLaVA-NeXT)."""
    height, width = size

    def worth(frame: Sequence[int]) -> tuple[int, int]:
        scale = min(frame[1] / width, frame[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - frame[0] * frame[1]

    best = max(frames, key=worth)
    return best[0], best[1]


def pan_and_scan(size: Size, smallest: int, most: int, ratio: float) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of Gemma 3's crops along the longer side; none for one that is nearly square.

    smallest: pixels that a crop must have along either side. most: crops. ratio: of the sides; below it there are none.
    """
    height, width = size
    long, short = max(size), min(size)
    if long / short < ratio:
        return []
    count = min(math.floor(long / smallest), math.floor(long / short + 0.5))
    count = min(most, max(2, count))
    step = math.ceil(long / count)
    if min(step, short) < smallest:
        return []
    cuts = [(step * i, min(step * (i + 1), long)) for i in range(count)]
    return [(a, 0, b, height) if width >= height else (0, a, width, b) for a, b in cuts]


def longest_edge(size: Size, edge: int, most: int = 4096) -> Size:
    """Idefics 3's size for an image whose longer side becomes ``edge``, at most ``most``; the other side is even."""
    height, width = size
    shape = width / height
    if width >= height:
        height, width = int(edge / shape), edge
        height += height % 2
    else:
        height, width = edge, int(edge * shape)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    shape = width / height
    if width >= height and width > most:
        height, width = int(most / shape), most
    elif height > width and height > most:
        height, width = most, int(most * shape)
    return max(height, 1), max(width, 1)


def whole_tiles(size: Size, tile: int) -> Size:
    """A size near to ``size`` that ``tile`` x ``tile`` tiles cover (Idefics 3)."""
    height, width = size
    shape = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        height = math.ceil(int(width / shape) / tile) * tile
    else:
        height = math.ceil(height / tile) * tile
        width = math.ceil(int(height * shape) / tile) * tile
    return height, width


def whole_patches(size: Size, most: Size, patch: Size) -> Size:
    """Pixtral's size: shrunk to fit ``most`` if it must be, then up to whole patches."""
    height, width = size
    if (ratio := max(height / most[0], width / most[1])) > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    return ((height - 1) // patch[0] + 1) * patch[0], ((width - 1) // patch[1] + 1) * patch[1]


def smart_size(size: Size, factor: int, least: int, most: int) -> Size:
    """LFM2-VL's size in whole squares of ``factor`` pixels, with between ``least`` and ``most`` pixels in all."""
    height, width = size
    high, wide = (max(factor, round(n / factor) * factor) for n in size)
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        return tuple(max(factor, math.floor(n / shrink / factor) * factor) for n in size)  # type: ignore[return-value]
    if high * wide < least:
        grow = math.sqrt(least / (height * width))
        return tuple(math.ceil(n * grow / factor) * factor for n in size)  # type: ignore[return-value]
    return high, wide


def too_large(size: Size, factor: int, patch: int, most: float) -> bool:
    """Whether LFM2-VL cuts an image into tiles: in whole squares it would have more than ``most`` pixels."""
    high, wide = (max(patch, round(n / factor) * factor) for n in size)
    return high * wide > most


def tile_grid(size: Size, least: int, most: int, tile: int) -> Size:
    """(rows, columns) of LFM2-VL's tiles: the shape nearest to the image's.

    Of two that are equally near, the later one counts if it isn't more than twice as large as the image.
    """
    height, width = size
    best, distance = (1, 1), math.inf
    for columns, rows in tile_shapes(least, most):
        off = abs(width / height - columns / rows)
        if off < distance or (off == distance and width * height > 0.5 * tile * tile * columns * rows):
            best, distance = (rows, columns), off
    return best


@lru_cache(maxsize=16)
def tile_shapes(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of all grids of between ``least`` and ``most`` tiles, the smaller ones first."""
    sides = range(1, most + 1)
    # The reference leaves equally large grids in the order of a set of pairs, and so in that of their hashes.
    shapes = {(w, h) for n in range(least, most + 1) for w in sides[:n] for h in sides[:n] if least <= w * h <= most}
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))
