"""The sizes that images are brought to are those of Hugging Face's processors, for many sizes of images."""

import numpy as np
import pytest
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_transforms import get_resize_output_image_size
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3 import image_processing_pil_idefics3 as idefics3
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.pixtral import image_processing_pil_pixtral as pixtral

from mlxlm.processors import grids

RANDOM = np.random.RandomState(11)
SIZES = [(1, 1), (336, 336), (1, 900), (64, 32), (33, 64), *map(tuple, RANDOM.randint(1, 1500, (300, 2)).tolist())]
FRAMES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def blank(size):
    """An array of that size and shape, which takes no memory."""
    return np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (3, *size))


def test_shortest_edge():
    for size in SIZES:
        theirs = get_resize_output_image_size(blank(size), 224, False, input_data_format="channels_first")
        assert grids.shortest_edge(size, 224) == theirs


def test_frames():
    for size in (s for s in SIZES if min(s) > 4):
        assert grids.best_frame(size, FRAMES) == select_best_resolution(size, FRAMES)
        for frame in FRAMES:
            assert grids.within(size, tuple(frame)) == get_patch_output_size(blank(size), frame, "channels_first")


@pytest.mark.parametrize("smallest,most,ratio", [(256, 4, 1.2), (20, 7, 1.0), (100, 2, 1.5)])
def test_pan_and_scan(smallest, most, ratio):
    reference, made = Gemma3ImageProcessorPil(), 0
    for height, width in SIZES:
        image = np.arange(height * width).reshape(1, height, width)
        theirs = reference.pan_and_scan(image, smallest, most, ratio)
        boxes = grids.pan_and_scan((height, width), smallest, most, ratio)
        made += len(boxes)
        assert len(boxes) == len(theirs)
        for (left, top, right, bottom), crop in zip(boxes, theirs, strict=True):
            assert np.array_equal(image[:, top:bottom, left:right], crop)
    assert made


@pytest.mark.parametrize("edge,tile", [(1456, 364), (2048, 512), (5000, 384), (60, 20)])
def test_idefics3(edge, tile):
    reference = idefics3.Idefics3ImageProcessorPil()
    for size in SIZES:
        theirs = idefics3.get_resize_output_image_size(blank(size), edge)
        ours = grids.longest_edge(size, edge)
        assert ours == theirs
        seen = []
        reference.resize = lambda image, size, resample, seen=seen: seen.append((size.height, size.width))
        reference.resize_for_vision_encoder(blank(ours), tile)
        assert [grids.whole_tiles(ours, tile)] == seen


@pytest.mark.parametrize("most,patch", [(1024, 16), (1540, 28), (100, 14)])
def test_pixtral(most, patch):
    for size in SIZES:
        theirs = pixtral.get_resize_output_image_size(blank(size), most, patch, "channels_first")
        assert grids.whole_patches(size, (most, most), (patch, patch)) == theirs


@pytest.mark.parametrize("least,most", [(64, 256), (1, 16), (4, 9)])
def test_lfm2_sizes(least, most):
    reference = Lfm2VlImageProcessor()
    kwargs = dict(max_image_tokens=most, encoder_patch_size=16, downsample_factor=2)
    for size in SIZES:
        wide, high = reference.smart_resize(*size, min_image_tokens=least, **kwargs)
        assert grids.smart_size(size, 32, least * 32 * 32, most * 32 * 32) == (high, wide)
        theirs = reference._is_image_too_large(*size, max_pixels_tolerance=2.0, **kwargs)
        assert grids.too_large(size, 32, 16, most * 32 * 32 * 2.0) == theirs


@pytest.mark.parametrize("least,most", [(2, 10), (2, 2), (1, 6)])
def test_lfm2_grids(least, most):
    reference = Lfm2VlImageProcessor()
    for size in SIZES:
        columns, rows, *_ = reference._get_grid_layout(*size, min_tiles=least, max_tiles=most, tile_size=512)
        assert grids.tile_grid(size, least, most, 512) == (rows, columns)
