"""Image processors give transformers' arrays: grids and counts exactly, pixels within 2/255 of the range."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor as TheirLfm2
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mlxlm.processors.gemma3 import Gemma3ImageProcessor
from mlxlm.processors.idefics3 import Idefics3ImageProcessor
from mlxlm.processors.lfm2_vl import Lfm2VlImageProcessor
from mlxlm.processors.llava_next import LlavaNextImageProcessor
from mlxlm.processors.pixtral import PixtralImageProcessor
from mlxlm.processors.squares import LlavaImageProcessor, SiglipImageProcessor, SquareImageProcessor

SIZES = [(40, 40), (30, 90), (200, 61), (13, 200), (64, 128), (7, 5)]
PAN = dict(do_pan_and_scan=True, pan_and_scan_min_crop_size=20, pan_and_scan_max_num_crops=4,
           pan_and_scan_min_ratio_to_activate=1.2)  # fmt: skip
SMALL = {"height": 28, "width": 28}
TILES = dict(tile_size=32, encoder_patch_size=4, min_image_tokens=4, max_image_tokens=16)
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]


def image(height, width):
    """Smooth colors with an edge and some noise, so that filters and clipping have something to do."""
    rng = np.random.RandomState(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 127 * np.sin(np.stack([x / 5, y / 7, (x + y) / 11], axis=-1))
    waves[height // 3 :, : width // 2] = 255 - waves[height // 3 :, : width // 2]
    return Image.fromarray(np.clip(waves + rng.randint(-30, 30, waves.shape), 0, 255).astype(np.uint8))


def close(ours, theirs, std=(0.25,)):
    """Within 2/255 of the range before the division by ``std``."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2 / 255 / min(std) + 1e-5


CASES = {
    "siglip": (SiglipImageProcessor, SiglipImageProcessorPil, dict(size=SMALL)),
    "siglip-plain": (SiglipImageProcessor, SiglipImageProcessorPil, dict(size=SMALL, do_normalize=False, resample=2)),
    "clip": (SquareImageProcessor, CLIPImageProcessorPil, dict(size={"shortest_edge": 30}, crop_size=SMALL)),
    "clip-black": (SquareImageProcessor, CLIPImageProcessorPil, dict(size={"shortest_edge": 15}, crop_size=SMALL)),
    "llava": (LlavaImageProcessor, LlavaImageProcessorPil, dict(size={"shortest_edge": 28}, crop_size=SMALL)),
    "llava-square": (
        LlavaImageProcessor, LlavaImageProcessorPil, dict(size={"shortest_edge": 28}, crop_size=SMALL, do_pad=True),
    ),
    "gemma3": (Gemma3ImageProcessor, Gemma3ImageProcessorPil, dict(size=SMALL)),
    "gemma3-pan": (Gemma3ImageProcessor, Gemma3ImageProcessorPil, dict(size=SMALL, **PAN)),
    "pixtral": (
        PixtralImageProcessor, PixtralImageProcessorPil,
        dict(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
    ),
    "llava_next": (
        LlavaNextImageProcessor, LlavaNextImageProcessorPil,
        dict(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_arrays_of_an_image(name):
    ours, theirs, settings = CASES[name]
    reference = theirs(**settings)
    for size in SIZES:
        expected = reference(image(*size), return_tensors="np")
        found = ours(**settings)([image(*size)])
        close(found["pixel_values"], expected["pixel_values"], reference.image_std if reference.do_normalize else (1,))
        for other in set(found) - {"pixel_values"}:
            assert np.array_equal(found[other], expected[other])


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("edge", [60, 100])
def test_idefics3(split, edge):
    settings = dict(size={"longest_edge": edge}, max_image_size={"longest_edge": 20}, do_image_splitting=split)
    reference = Idefics3ImageProcessorPil(return_row_col_info=True, **settings)
    for size in [*SIZES, (20, 20)]:
        expected = reference([[image(*size)]], return_tensors="np")
        found = Idefics3ImageProcessor(**settings)([image(*size)])
        close(found["pixel_values"], expected["pixel_values"], (0.5,))
        assert np.array_equal(found["pixel_attention_mask"], expected["pixel_attention_mask"])
        assert [found["rows"].tolist()] == expected["rows"] and [found["cols"].tolist()] == expected["cols"]


@pytest.mark.parametrize("more", [{}, {"use_thumbnail": False}, {"do_image_splitting": False}, {"max_tiles": 3}])
def test_lfm2_vl(more):
    settings = {**TILES, **more}
    reference = TheirLfm2(return_row_col_info=True, **settings)
    for size in SIZES:
        expected = reference([[image(*size)]], return_tensors="np")
        found = Lfm2VlImageProcessor(**settings)([image(*size)])
        close(found["pixel_values"], expected["pixel_values"], (0.5,))
        for name in ("pixel_attention_mask", "spatial_shapes", "image_sizes"):
            assert np.array_equal(found[name], expected[name])
        assert found["grid"].tolist() == [[expected["image_rows"][0], expected["image_cols"][0]]]


def test_defaults_are_the_references():
    pairs = [(ours, theirs) for ours, theirs, _ in CASES.values()]
    pairs += [(Idefics3ImageProcessor, Idefics3ImageProcessorPil), (Lfm2VlImageProcessor, TheirLfm2)]
    for ours, theirs in dict(pairs).items():
        reference, mine = theirs(), ours()
        for name in vars(type(mine)) | vars(type(mine).__mro__[1]) | {"image_mean": 0, "image_std": 0, "resample": 0}:
            value = getattr(mine, name)
            if name.startswith(("_", "pan_")) or value is None or callable(value) or not hasattr(theirs, name):
                continue
            expected = getattr(reference, name)
            if isinstance(expected, dict) or hasattr(expected, "to_dict") or hasattr(value, "keys"):
                expected, value = ({k: v for k, v in dict(x).items() if v is not None} for x in (expected, value))
            elif isinstance(value, tuple):
                expected, value = np.array(expected).tolist(), np.array(value).tolist()
            assert value == expected or not (value or expected), (ours, name, value, expected)
