"""The processors of InternVL, Llama 3.2 Vision and Gemma 4 beside transformers': arrays, counts and token ids."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl.processing_deepseek_vl import DeepseekVLProcessor as HFDeepseek
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor as HFGemma4
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor as HFIntern
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.mllama.processing_mllama import MllamaProcessor as HFMllama

from mlxlm.errors import ConfigError
from mlxlm.processors.deepseek_ocr import DeepseekOcrProcessor, OcrImages
from mlxlm.processors.deepseek_vl import DeepseekVLImages, DeepseekVLProcessor, HybridImages
from mlxlm.processors.fastvlm import FastImages, FastVLMProcessor
from mlxlm.processors.gemma3n import Gemma3nProcessor
from mlxlm.processors.gemma4 import Gemma4Images, Gemma4Processor, Gemma4Videos
from mlxlm.processors.internvl import InternImages, InternVideos, InternVLChatProcessor, InternVLProcessor
from mlxlm.processors.mllama import MllamaImages, MllamaProcessor
from mlxlm.processors.squares import SiglipImageProcessor
from mlxlm.text.tokenizer import Tokenizer
from mlxlm.vlms.mllama import ranges

STEP = 2 / 255  # what rounding of resampled pixels may differ by, before normalization
SIZES = [(31, 17), (64, 64), (200, 30), (25, 240), (119, 83), (640, 480), (33, 500)]
WORDS = ["<unk>", "<s>", "see", "this", "and", "that", ":", "Frame1", "Frame2", "Frame3", "00", "01", "02"]


def picture(size, seed=0):
    """A smooth image of (width, height) with some noise, as photographs are."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-9, 10, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """(transformers' tokenizer, ours) of a vocabulary of words."""
    backend = Backend(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>", "image_token": "<|image|>", "boi_token": "<boi>", "eoi_token": "<eoi>",
        "audio_token": "<audio>", "boa_token": "<audio>", "eoa_token": "<audio>",
        "film_token": "<|video|>",
    }  # fmt: skip
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="<unk>", pad_token="</s>", extra_special_tokens=named,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs.save_pretrained(folder)
    return theirs, Tokenizer.from_folder(folder)


def close(ours, theirs, std):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= STEP / min(std) + 1e-6


@pytest.mark.parametrize("limits", [(1, 12), (2, 6), (1, 1)])
def test_tiles_of_internvl(limits):
    settings = dict(size={"height": 28, "width": 28}, min_patches=limits[0], max_patches=limits[1])
    ours, theirs = InternImages(**settings), GotOcr2ImageProcessorPil(**settings, crop_to_patches=True)
    for size in SIZES:
        image = picture(size)
        close(ours([image])["pixel_values"], theirs(image, return_tensors="np")["pixel_values"], theirs.image_std)


def test_every_shape_has_the_grid_of_the_reference():
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    from mlxlm.processors.internvl import best_grid

    for height in range(10, 260, 7):
        for width in range(10, 260, 9):
            expected = get_optimal_tiled_canvas((height, width), (32, 32), 1, 12)
            assert best_grid((height, width), 32 * 32, 1, 12) == expected


def test_ids_of_internvl_with_images_and_a_video(tokenizers):
    size = {"height": 28, "width": 28}
    theirs = HFIntern(GotOcr2ImageProcessorPil(size=size), tokenizers[0], InternVLVideoProcessor(size=size),
                      image_seq_length=4)  # fmt: skip
    ours = InternVLProcessor(tokenizers[1], InternImages(size=size), InternVideos(size=size), {"image_seq_length": 4})
    text = "see this <IMG_CONTEXT> and <video> and that <IMG_CONTEXT>"
    images, frames = [picture((90, 31)), picture((30, 50), 1)], [picture((40, 30), s) for s in range(3)]
    video = torch.from_numpy(np.stack([np.asarray(f) for f in frames]).transpose(0, 3, 1, 2))
    expected = theirs(text=text, images=images, videos=[video], return_tensors="pt", do_sample_frames=False)
    found = with_frames(ours, text, images, frames)
    assert found.ids == expected["input_ids"][0].tolist()
    # Frames are resized by torchvision there, and by Pillow here, whose weights for 8-bit pixels are coarser.
    close(np.array(found.media["pixel_values"]), expected["pixel_values"].numpy(), theirs.image_processor.image_std)


def with_frames(processor, text, images, frames, fps=2.0):
    """The inputs for images and one video whose frames are taken as they are."""
    return processor(text, images=images, videos=[{"frames": frames, "fps": fps}])


def test_the_makers_own_config_of_internvl(tokenizers):
    config = {"dynamic_image_size": True, "max_dynamic_patch": 6, "min_dynamic_patch": 1, "use_thumbnail": True,
              "force_image_size": 28, "downsample_ratio": 0.5, "vision_config": {"patch_size": 7}}  # fmt: skip
    ours = InternVLChatProcessor(tokenizers[1], config=config)
    found = ours("see <image> this", images=[picture((90, 31))])
    tiles = found.media["pixel_values"].shape[0]
    assert tiles == 4 and found.ids.count(tokenizers[1].token_to_id("<IMG_CONTEXT>")) == 4 * tiles
    plain = InternVLChatProcessor(tokenizers[1], config={**config, "dynamic_image_size": False})
    assert plain("see <image> this", images=[picture((90, 31))]).media["pixel_values"].shape == (1, 3, 28, 28)


def test_frames_from_the_middles_of_parts():
    theirs = InternVLVideoProcessor(num_frames=5)
    from transformers.video_utils import VideoMetadata

    for total in (5, 9, 64, 301):
        expected = theirs.sample_frames(VideoMetadata(total_num_frames=total, fps=24.0)).tolist()
        assert InternVideos(num_frames=5).sample(total, 24.0) == expected
        theirs4 = Gemma4VideoProcessor(num_frames=5).sample_frames(VideoMetadata(total_num_frames=total, fps=24.0))
        assert Gemma4Videos(num_frames=5).sample(total, 24.0) == theirs4.tolist()


@pytest.mark.parametrize("most", [4, 6])
def test_tiles_of_llama_vision(most):
    settings = dict(size={"height": 28, "width": 28}, max_image_tiles=most, image_mean=[0.48, 0.46, 0.41])
    ours, theirs = MllamaImages(**settings), MllamaImageProcessorPil(**settings)
    for size in [*SIZES, (12, 9), (56, 28), (57, 28)]:
        image = picture(size)
        expected, found = theirs([[image]], return_tensors="np"), ours([image])
        assert (found["aspect_ratio_ids"] == expected["aspect_ratio_ids"]).all()
        assert (found["aspect_ratio_mask"] == expected["aspect_ratio_mask"]).all()
        close(found["pixel_values"], expected["pixel_values"], theirs.image_std)


def test_prompts_of_llama_vision(tokenizers):
    size = {"height": 28, "width": 28}
    theirs = HFMllama(MllamaImageProcessorPil(size=size), tokenizers[0])
    ours = MllamaProcessor(tokenizers[1], MllamaImages(size=size))
    images = [picture((90, 31)), picture((30, 50), 1), picture((30, 20), 2)]
    for text in ("<s> see <|image|> this <|image|> <|image|> and that", "<s> <|image|> <|image|> see <|image|> this",
                 "<|image|><|image|> see <|image|> this", "see <|image|> <|image|> <|image|>"):
        expected = theirs(text=text, images=images, return_tensors="np")
        found = ours(text, images=images)
        assert found.ids == expected["input_ids"][0].tolist()
        for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"):
            assert found.media[name].shape == expected[name].shape
        at = np.flatnonzero(np.array(found.ids) == tokenizers[1].token_to_id("<|image|>"))
        tiles = np.array(found.media["aspect_ratio_mask"])[0].astype(bool)
        assert (ranges(at, len(found.ids))[..., None] & tiles == expected["cross_attention_mask"][0]).all()


@pytest.mark.parametrize("tokens", [70, 280])
def test_patches_of_gemma4(tokens):
    ours, theirs = Gemma4Images(max_soft_tokens=tokens), Gemma4ImageProcessorPil(max_soft_tokens=tokens)
    for size in [*SIZES, (3000, 40), (8, 700)]:
        image = picture(size)
        expected, found = theirs(image, return_tensors="np"), ours([image])
        assert (found["image_position_ids"] == expected["image_position_ids"]).all()
        assert ours.soft_tokens(found["image_position_ids"][0]) == expected["num_soft_tokens_per_image"][0]
        close(found["pixel_values"], expected["pixel_values"], [1.0])


def test_prompts_of_gemma4(tokenizers):
    parts = Gemma4AudioFeatureExtractor(), Gemma4ImageProcessorPil(max_soft_tokens=70)
    theirs = HFGemma4(*parts, tokenizers[0], Gemma4VideoProcessor())
    words = dict(boi="<boi>", eoi="<eoi>", image="<|image|>", video="<|video|>")
    ids = {f"{name}_token_id": tokenizers[1].token_to_id(word) for name, word in words.items()}
    ours = Gemma4Processor(tokenizers[1], Gemma4Images(max_soft_tokens=70), Gemma4Videos(), config=ids)
    text, images = "see <|image|> and <|video|> : this <|image|>", [picture((300, 90)), picture((64, 80), 1)]
    frames = [picture((80, 60), s) for s in range(3)]
    video = torch.from_numpy(np.stack([np.asarray(f) for f in frames]).transpose(0, 3, 1, 2))
    metadata = {"total_num_frames": 3, "fps": 0.5, "frames_indices": [0, 1, 2]}
    expected = theirs(text=text, images=images, videos=[video], return_tensors="pt", video_metadata=[metadata],
                      do_sample_frames=False)  # fmt: skip
    found = with_frames(ours, text, images, frames, fps=0.5)
    assert found.ids == expected["input_ids"][0].tolist()
    media = {name: np.array(value) for name, value in found.media.items()}
    for name in ("pixel_values", "pixel_values_videos"):
        close(media[name], expected[name].numpy(), [1.0])
    for name in ("image_position_ids", "video_position_ids", "num_frames_per_video"):
        assert (media[name] == expected[name].numpy()).all()


def test_settings_and_images_that_make_no_sense():
    with pytest.raises(ConfigError, match="max_soft_tokens"):
        Gemma4Images(max_soft_tokens=100)
    with pytest.raises(ConfigError, match="max_patches"):
        InternImages(min_patches=3, max_patches=2)([picture((9, 9))])


@pytest.mark.parametrize("kind", ["pad", "square"])
def test_squares_and_ids_of_fastvlm(tokenizers, kind):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    settings = dict(size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128})
    theirs = CLIPImageProcessorPil(**settings, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    ours = FastVLMProcessor(tokenizers[1], FastImages(**settings), config={"image_aspect_ratio": kind})
    for size in SIZES:
        image = picture(size)
        square = Image.new("RGB", (max(size),) * 2)
        square.paste(image, ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
        found = ours("see <image> and <image>", images=[image, image])
        expected = theirs(square if kind == "pad" else image, return_tensors="np")["pixel_values"]
        close(np.array(found.media["pixel_values"]), np.concatenate([expected] * 2), [1.0])
        word = {w: i for i, w in enumerate(WORDS)}
        # 128 pixels a side are 2 x 2 features, each with a place; the text between is read by itself.
        assert found.ids == [word["see"], *[-200] * 4, word["and"], *[-200] * 4]
        assert [item[:2] for item in found.items] == [(1, 5), (6, 10)]


@pytest.mark.parametrize("hybrid", [False, True])
def test_squares_and_ids_of_deepseek_vl(tokenizers, hybrid):
    settings = dict(size={"height": 48, "width": 48}, image_mean=[0.5, 0.4, 0.3])
    settings |= {"high_res_size": {"height": 96, "width": 96}} if hybrid else {}
    theirs = (DeepseekVLHybridImageProcessorPil if hybrid else DeepseekVLImageProcessorPil)(**settings)
    ours = (HybridImages if hybrid else DeepseekVLImages)(**settings)
    for size in SIZES:
        expected, found = theirs(picture(size), return_tensors="np"), ours([picture(size)])
        assert set(found) == set(expected)
        for name, pixels in found.items():
            close(pixels, expected[name], theirs.image_std)
    reference = HFDeepseek(DeepseekVLImageProcessorPil(), tokenizers[0], num_image_tokens=9)
    image = tokenizers[1].token_to_id("<|image|>")
    processor = DeepseekVLProcessor(tokenizers[1], ours, None, {"num_image_tokens": 9}, {"image_token_id": image})
    text, images = "see <|image|> and <|image|> that", [picture((30, 20)), picture((20, 30))]
    assert processor(text, images=images).ids == reference(text=text, images=images)["input_ids"][0].tolist()


def test_prompts_of_gemma3n(tokenizers):
    from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor
    from transformers.models.gemma3n.processing_gemma3n import Gemma3nProcessor as HF
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    settings = dict(size={"height": 64, "width": 64}, do_normalize=False)
    theirs = HF(Gemma3nAudioFeatureExtractor(), SiglipImageProcessorPil(**settings), tokenizers[0], image_seq_length=4)
    ids = {name: tokenizers[1].token_to_id(word) for name, word in
           (("boi_token_id", "<boi>"), ("eoi_token_id", "<eoi>"), ("image_token_id", "<|image|>"))}
    ours = Gemma3nProcessor(tokenizers[1], SiglipImageProcessor(**settings), None, {"image_seq_length": 4}, ids)
    text, images = "see <|image|> and that <|image|>", [picture((90, 40)), picture((64, 80), 1)]
    expected, found = theirs(text=text, images=images, return_tensors="np"), ours(text, images=images)
    assert found.ids == expected["input_ids"][0].tolist()
    close(np.array(found.media["pixel_values"]), expected["pixel_values"], [1.0])


def test_pages_and_ids_of_deepseek_ocr(tokenizers):
    """transformers' Unlimited-OCR cuts pages alike; DeepSeek's own code fills pages up by Pillow's ImageOps.pad."""
    from transformers.models.unlimited_ocr.image_processing_unlimited_ocr import UnlimitedOcrImageProcessor
    from transformers.models.unlimited_ocr.processing_unlimited_ocr import UnlimitedOcrProcessor

    settings = dict(tile_size=64, max_patches=9, min_patches=2)
    theirs = UnlimitedOcrImageProcessor(size={"height": 128, "width": 128}, **settings)
    processor = UnlimitedOcrProcessor(theirs, tokenizers[0])
    ours = OcrImages(base_size=128, **settings)
    for size in SIZES[:-1]:
        image = picture(size)
        expected, found = theirs(image, return_tensors="pt"), ours([image])
        assert found["patches_grid"].tolist() == expected["patches_grid"]
        assert found["num_local_patches"].tolist() == expected["num_local_patches"]
        page = np.asarray(ImageOps.pad(image, (128, 128), color=(127, 127, 127), method=Image.BICUBIC), np.float32)
        close(found["pixel_values"], (page.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5, theirs.image_std)
        if "pixel_values_local" in expected:
            close(found["pixel_values_local"], expected["pixel_values_local"].numpy(), theirs.image_std)
    mine = type("Mine", (DeepseekOcrProcessor,), {"markers": {"image": "<|image|>"}, "places": {"image": "<|image|>"}})
    text, images = "see <|image|> and <|image|> that", [picture((40, 30)), picture((200, 130))]
    found = mine(tokenizers[1], ours)(text, images=images)
    assert found.ids == list(processor(text=text, images=images)["input_ids"][0])
    assert len(found.media["pixel_values_local"]) == 6
