"""Prompts with images as transformers' processors write them: token ids, counts and arrays, from a saved processor."""

import json

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.pixtral.processing_pixtral import PixtralProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from transformers.video_utils import VideoMetadata

from mlxlm.errors import MediaError
from mlxlm.processor import media_processor
from mlxlm.processors.smolvlm import SmolVLMVideos, in_words
from mlxlm.processors.videos import Clip
from mlxlm.text.tokenizer import Tokenizer as OurTokenizer

from .test_images_halves import PAN, PINPOINTS, TILES, close, image

SPECIAL = (
    "<bos>", "<eos>", "<pad>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<start_of_image>", "<image_soft_token>", "<end_of_image>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|image_start|>",
    "<|image_end|>", "<|img_thumbnail|>", "<|im_start|>", "<|im_end|>",
    *(f"<row_{y}_col_{x}>" for y in range(1, 7) for x in range(1, 7)),
    *(f"<|img_row_{y}_col_{x}|>" for y in range(1, 11) for x in range(1, 11)),
)  # fmt: skip
NAMED = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
TILE = dict(size={"longest_edge": 60}, max_image_size={"longest_edge": 20})
SQUARE = dict(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})


def siglip():
    images = SiglipImageProcessorPil(size={"height": 24, "width": 24})
    images.image_seq_length = 16
    return images


# The reference's processor of a tokenizer, the marker in a prompt, and what our side reads from config.json.
CASES = {
    "gemma3": (
        lambda t: Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 24, "width": 24}), t, image_seq_length=9),
        "<start_of_image>",
    ),
    "gemma3-pan": (
        lambda t: Gemma3Processor(
            Gemma3ImageProcessorPil(size={"height": 24, "width": 24}, **PAN), t, image_seq_length=4
        ),
        "<start_of_image>",
    ),
    "paligemma": (lambda t: PaliGemmaProcessor(siglip(), t), "<image>"),
    "llava": (
        lambda t: LlavaProcessor(
            LlavaImageProcessorPil(**SQUARE), t, 4, "default", num_additional_image_tokens=1
        ),
        "<image>",
    ),
    "llava-full": (lambda t: LlavaProcessor(LlavaImageProcessorPil(**SQUARE, do_pad=True), t, 6, "full"), "<image>"),
    "llava_next": (
        lambda t: LlavaNextProcessor(
            LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=PINPOINTS), t, 4, "default",
            num_additional_image_tokens=1,
        ),
        "<image>",
    ),
    "pixtral": (
        lambda t: PixtralProcessor(PixtralImageProcessorPil(size={"longest_edge": 64}), t, patch_size=8), "[IMG]",
    ),
    "mistral3": (
        lambda t: PixtralProcessor(
            PixtralImageProcessorPil(size={"longest_edge": 64}), t, patch_size=4, spatial_merge_size=2
        ),
        "[IMG]",
    ),
    "idefics3": (lambda t: Idefics3Processor(Idefics3ImageProcessorPil(**TILE), t, image_seq_len=7), "<image>"),
    "idefics3-whole": (
        lambda t: Idefics3Processor(Idefics3ImageProcessorPil(**TILE, do_image_splitting=False), t, image_seq_len=7),
        "<image>",
    ),
    "lfm2_vl": (lambda t: Lfm2VlProcessor(Lfm2VlImageProcessor(**TILES), t), "<image>"),
    "lfm2_vl-plain": (
        lambda t: Lfm2VlProcessor(Lfm2VlImageProcessor(**TILES, use_thumbnail=False), t), "<image>",
    ),
}  # fmt: skip


def tokenizer(folder, **named):
    """(transformers', ours): bytes and the special tokens of all families."""
    vocab = {t: i for i, t in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", extra_special_tokens=named
    )
    theirs.save_pretrained(folder)
    return theirs, OurTokenizer.from_folder(folder)


@pytest.fixture
def pair(request, tmp_path):
    """(transformers' processor, ours, the marker) of a saved processor."""
    make, marker = CASES[request.param]
    theirs, ours = tokenizer(tmp_path, **(NAMED if request.param.startswith("gemma3") else {}))
    reference = make(theirs)
    reference.save_pretrained(tmp_path)
    kind = request.param.partition("-")[0]
    return reference, media_processor(tmp_path, ours, {"model_type": "llava" if kind == "pixtral" else kind}), marker


every = pytest.mark.parametrize("pair", CASES, indirect=True)


def compare(reference, ours, text, images):
    own = PAN if ours.image_processor.__dict__.get("do_pan_and_scan") else {}  # the reference wants it with each call
    nested = [images] if isinstance(reference, PaliGemmaProcessor) else images
    expected = reference(text=text, images=nested, return_tensors="pt", **own)
    found = ours(text, images=images)
    assert found.ids == expected["input_ids"][0].tolist()
    media = found.media
    theirs = expected["pixel_values"]
    close(np.array(media["pixel_values"]), np.asarray(theirs), reference.image_processor.image_std)
    for name in media.keys() - {"pixel_values"}:
        assert np.array_equal(np.array(media[name]), np.asarray(expected[name]))
    # All that the reference's model is given, but marks that ours finds by itself.
    marks = {"input_ids", "attention_mask", "token_type_ids", "labels", "mm_token_type_ids"}
    assert set(expected) - set(media) <= marks


@every
def test_one_image_of_each_shape(pair):
    reference, ours, marker = pair
    for size in [(40, 40), (30, 90), (200, 61), (13, 100)]:
        compare(reference, ours, f"{marker}What is it?", [image(*size)])


@every
def test_several_images_between_text(pair):
    reference, ours, marker = pair
    images = [image(40, 90), image(33, 20), image(64, 64)]
    text = f"First {marker} then {marker}\nand {marker}?"
    if isinstance(reference, PaliGemmaProcessor):  # which asks for them in front
        text = f"{marker * 3}answer en first?"
    compare(reference, ours, text, images)


@every
def test_text_alone(pair):
    reference, ours, _ = pair
    if isinstance(reference, PaliGemmaProcessor):
        assert ours("caption en").ids == reference.tokenizer("<bos>caption en\n")["input_ids"]
    else:
        assert ours("No image.").ids == np.array(reference(text="No image.")["input_ids"])[0].tolist()


@every
def test_more_images_than_markers(pair):
    _, ours, marker = pair
    with pytest.raises(MediaError, match="as many images are needed"):
        ours(f"{marker} one", images=[image(30, 30)] * 2)


def test_paligemmas_prompt_without_a_marker(tmp_path):
    theirs, ours = tokenizer(tmp_path)
    reference = PaliGemmaProcessor(siglip(), theirs)
    reference.save_pretrained(tmp_path)
    ours = media_processor(tmp_path, ours, {"model_type": "paligemma"})
    expected = reference(text="caption en", images=image(30, 40))["input_ids"][0]
    assert ours("caption en", images=image(30, 40)).ids == list(expected)


def test_older_llavas_say_less(tmp_path):
    """Without a processor_config.json the counts come from config.json."""
    theirs, ours = tokenizer(tmp_path)
    LlavaImageProcessorPil(**SQUARE).save_pretrained(tmp_path)
    reference = LlavaProcessor(LlavaImageProcessorPil(**SQUARE), theirs, 4, "default", num_additional_image_tokens=1)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "LlavaProcessor"}')
    config = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model", "patch_size": 4}}
    compare(reference, media_processor(tmp_path, ours, config), "<image>What?", [image(30, 40)])


@pytest.fixture
def smolvlm(tmp_path, monkeypatch):
    monkeypatch.setattr(processing_smolvlm, "num2words", in_words)  # its own tests are below
    theirs, ours = tokenizer(tmp_path)
    videos = SmolVLMVideoProcessor(**TILE, video_sampling={"max_frames": 6, "fps": 1, "video_size": TILE["size"]})
    reference = processing_smolvlm.SmolVLMProcessor(SmolVLMImageProcessorPil(**TILE), theirs, videos, image_seq_len=5)
    reference.save_pretrained(tmp_path)
    return reference, media_processor(tmp_path, ours, {"model_type": "smolvlm"})


def test_smolvlms_images(smolvlm):
    compare(*smolvlm, "A <image> and <image>?", [image(40, 90), image(64, 20)])


def clip(seconds, fps, size=(30, 50)):
    frames = [image(*size).rotate(7 * i) for i in range(int(seconds * fps))]
    return frames, VideoMetadata(total_num_frames=len(frames), fps=fps, duration=seconds, frames_indices=None)


@pytest.mark.parametrize("seconds,fps", [(3.5, 4), (11, 2), (70, 1)])
def test_smolvlms_videos(smolvlm, seconds, fps):
    reference, ours = smolvlm
    frames, metadata = clip(seconds, fps)
    indices = ours.video_processor.sample(len(frames), fps)
    assert indices == reference.video_processor.sample_frames(metadata).tolist()
    taken = [frames[i] for i in indices]
    metadata.frames_indices = indices
    pixels = torch.tensor(np.stack([np.asarray(f) for f in taken])).permute(0, 3, 1, 2)
    text = "<|im_start|>User: <video>What happens?<end_of_utterance>\nAssistant:"
    expected = reference(text=text, videos=[pixels], video_metadata=[metadata], return_tensors="pt")
    arrays = ours.video_processor(Clip(taken, indices, fps, seconds))
    ids = ours.tokenizer.encode(text.replace("<video>", ours.video_text(arrays)), add_special_tokens=False)
    assert ids == expected["input_ids"][0].tolist()
    close(arrays["pixel_values"], expected["pixel_values"], (0.5,))
    assert np.array_equal(arrays["pixel_attention_mask"], expected["pixel_attention_mask"])


def test_older_smolvlms_keep_one_file_for_images_and_videos(tmp_path):
    _, ours = tokenizer(tmp_path)
    settings = {**TILE, "video_sampling": {"max_frames": 3, "fps": 2, "video_size": {"longest_edge": 40}}}
    settings |= {"image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    videos = media_processor(tmp_path, ours, {"model_type": "smolvlm"}).video_processor
    assert (videos.num_frames, videos.fps, videos.size) == (3, 2, {"longest_edge": 40})
    assert videos(Clip([image(30, 50)], [0], 2.0))["pixel_values"].shape == (1, 1, 3, 20, 20)


def test_smolvlms_video_beside_an_image(smolvlm):
    """Images and frames come in the order of the prompt, in one array."""
    _, ours = smolvlm
    frames, _ = clip(3, 1)
    message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "or"}, {"type": "image"}]}
    ours.tokenizer.chat_template = TEMPLATE
    found = ours([message], images=[image(10, 10)], videos=[{"frames": frames, "fps": 1}])
    alone = ours([{**message, "content": message["content"][2:]}], images=[image(10, 10)])
    whole, single = (np.array(inputs.media["pixel_values"]) for inputs in (found, alone))
    assert whole.shape[1] == 3 + single.shape[1] and np.array_equal(whole[:, 3:], single)
    text = ours.tokenizer.decode(found.ids)
    assert text.startswith("<|im_start|>User: You are provided the following series of three frames from a 0:00:02")
    assert "Frame from 00:02:<fake_token_around_image><global-img>" in text


# What SmolVLM2's checkpoints have: it knows images only.
TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'text' %}{{ p['text'] }}{% elif p['type'] == 'image' %}<image>{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def test_sampling_of_videos_is_the_references(smolvlm):
    reference, _ = smolvlm
    for most, rate in ((64, 1), (8, 0.5), (3, 2)):
        ours = SmolVLMVideos(num_frames=most, fps=rate)
        for total, fps in [(1, 30), (2, 1), (100, 24), (1000, 30), (5000, 25), (640, 7.5)]:
            metadata = VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps)
            expected = reference.video_processor.sample_frames(metadata, num_frames=most, fps=rate)
            assert ours.sample(total, fps) == expected.tolist()


@pytest.mark.parametrize("n,words", [
    (0, "zero"), (7, "seven"), (13, "thirteen"), (20, "twenty"), (64, "sixty-four"), (100, "one hundred"),
    (105, "one hundred and five"), (768, "seven hundred and sixty-eight"), (1000, "one thousand"),
    (2019, "two thousand and nineteen"), (12345, "twelve thousand, three hundred and forty-five"),
])  # fmt: skip
def test_numbers_in_words(n, words):
    """As the package num2words has them, which transformers uses."""
    assert in_words(n) == words
