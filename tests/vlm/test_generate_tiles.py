"""InternVL, Llama 3.2 Vision, Gemma 4 and DeepSeek-VL through load, generate and conversations."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl.processing_deepseek_vl import DeepseekVLProcessor
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.mllama.processing_mllama import MllamaProcessor

from mlxlm import load, stream_generate
from mlxlm.chat import ChatSession
from mlxlm.generate.prompt_cache import load_prompt_cache, save_prompt_cache

from . import cases_deepseek, cases_fastvlm, cases_gemma, cases_mllama, cases_tiles, reference
from .reference import Case
from .test_tile_processors import picture

NAMED = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>", "image_token": "<|image|>", "boi_token": "<boi>", "eoi_token": "<eoi>",
    "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>",
}  # fmt: skip
SPECIAL = ["<bos>", "<eos>", "<pad>", "<|im_start|>", "<|im_end|>", *NAMED.values()]
VOCAB = len(SPECIAL) + 256
SIDE = {"height": 16, "width": 16}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}MARKER{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def gemma(tokenizer):
    images = Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70)
    return Gemma4Processor(Gemma4AudioFeatureExtractor(), images, tokenizer, Gemma4VideoProcessor())


# A type's settings, the token of its places, and its reference's processor of a tokenizer.
KINDS = {
    "internvl": (
        dict(text=cases_tiles.QWEN2, vision=cases_tiles.VISION, root=dict(tie_word_embeddings=False)),
        "<IMG_CONTEXT>",
        lambda t: InternVLProcessor(GotOcr2ImageProcessorPil(size=SIDE, crop_to_patches=True, max_patches=4), t,
                                    InternVLVideoProcessor(size=SIDE), image_seq_length=4),
    ),
    "mllama": (
        dict(text=dict(cross_attention_layers=[1, 3]), vision=cases_mllama.VISION, make=cases_mllama.mended),
        "<|image|>",
        lambda t: MllamaProcessor(MllamaImageProcessorPil(size=SIDE), t),
    ),
    "gemma4": (
        dict(text={**cases_gemma.TEXT, "use_bidirectional_attention": "vision", "sliding_window": 40,
                   "vocab_size_per_layer_input": VOCAB}, vision=cases_gemma.VISION, values=cases_gemma.STEEP,
             root=dict(boi_token_id=SPECIAL.index("<boi>"), eoi_token_id=SPECIAL.index("<eoi>"),
                       audio_token_id=SPECIAL.index("<audio>"))),
        "<|image|>",
        gemma,
    ),
    "deepseek_vl": (
        dict(text=cases_deepseek.LLAMA, vision=cases_deepseek.SIGLIP, root=dict(tie_word_embeddings=False)),
        "<|image|>",
        lambda t: DeepseekVLProcessor(DeepseekVLImageProcessorPil(size=SIDE, min_size=4), t, num_image_tokens=16),
    ),
}  # fmt: skip


def tokenizer(folder, marker, order=SPECIAL):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: i for i, t in enumerate([*order, *letters] if order is SPECIAL else [*letters, *order])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in order])
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", extra_special_tokens=NAMED
    )
    found.chat_template = TEMPLATE.replace("MARKER", marker)
    found.save_pretrained(folder)
    return found


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """(type, the image's marker, the reference's model and processor, ours) of a checkpoint with all its files."""
    kind = request.param
    settings, marker, processor = KINDS[kind]
    folder = tmp_path_factory.mktemp(kind) / "model"
    root = {"video_token_id": SPECIAL.index("<video>") if kind in ("internvl", "gemma4") else None, "eos_token_id": 1,
            **settings.get("root", {})}  # fmt: skip
    text = {**settings["text"], "vocab_size": VOCAB}
    case = Case(kind, "generate", **{**settings, "root": root, "text": text}, image_token=SPECIAL.index(marker))
    model = reference.build(case)
    reference.save(model, folder)
    theirs = processor(tokenizer(folder, marker))
    theirs.chat_template = TEMPLATE.replace("MARKER", marker)
    theirs.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return kind, marker, (model, theirs), load(folder)


def test_answers_are_the_references(made):
    _, marker, (their_model, theirs), (model, processor) = made
    images = [picture((40, 30)), picture((30, 60), 1)]
    text = f"One {marker} or {marker}?"
    inputs = theirs(text=text, images=images, return_tensors="pt")
    inputs.pop("num_soft_tokens_per_image", None)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        expected = their_model.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=1, pad_token_id=2)
    expected = expected[0, length:].tolist()
    for step in (11, 512):
        stream = stream_generate(model, processor, text, images=images, max_tokens=6, prefill_step_size=step)
        assert sum(1 for _ in stream) == len(stream.tokens)
        assert stream.tokens == expected[: len(stream.tokens)] and len(stream.tokens) >= min(6, len(expected)) - 1


def test_a_conversation_with_images_in_its_first_and_third_turn(made):
    _, _, _, (model, processor) = made
    chat, history, images = ChatSession(model, processor, max_tokens=4, top_logprobs=0), [], []
    for text, seen in (("What is it?", picture((40, 30))), ("And its colour?", None), ("This?", picture((30, 60), 1))):
        events = list(chat.stream(text, images=[seen] if seen else None))
        images += [seen] if seen else []
        history.append({"role": "user", "content": [*([{"type": "image"}] if seen else []),
                                                    {"type": "text", "text": text}]})
        inputs = processor(history, images=list(images))
        expected = np.array(model(mx.array(inputs.ids)[None], cache=model.make_cache(), **inputs.media))[0, -1]
        assert np.abs(np.array(events[0].piece.logits) - expected).max() <= 2e-5 * expected.std()
        history.append({"role": "assistant", "content": chat.messages[-1]["content"]})
    assert events[-1].piece.stats.cached_tokens > 0


def test_a_saved_cache_goes_on(made, tmp_path):
    """What the layers remember of images is in the file, and what they saw of none."""
    _, marker, _, (model, processor) = made
    for text, images in ((f"One {marker}!", [picture((40, 30))]), ("No image!", None)):
        inputs = processor(text, images=images)
        cache = model.make_cache()
        model(mx.array(inputs.ids)[None], cache=cache, **inputs.media)
        save_prompt_cache(tmp_path / "cache.safetensors", cache)
        found = load_prompt_cache(tmp_path / "cache.safetensors", model)
        more = mx.array(processor("And then?").ids)[None]
        assert mx.array_equal(model(more, cache=found), model(more, cache=cache))


# Types whose own processors transformers hasn't, or not without timm: their case, marker, place and settings.
ALONE = {
    "internvl_chat": (cases_tiles.CASES[3], "<image>", "<IMG_CONTEXT>", {}),
    "llava_qwen2": (cases_fastvlm.CASES[0], "<image>", None,
                    {"preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.0] * 3,
                     "image_std": [1.0] * 3, "size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}}),
    "deepseek_ocr": (cases_deepseek.CASES[-1], "<image>", "<image>",
                     {"processor_config.json": {"processor_class": "DeepseekVLV2Processor", "patch_size": 4},
                      "preprocessor_config.json": {"base_size": 64, "tile_size": 32}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALONE)
def test_answers_where_the_processor_is_ours_alone(kind, tmp_path):
    """The reference is asked for a token at a time, with the ids and arrays that our processor makes."""
    case, marker, place, files = ALONE[kind]
    order = ["<bos>", "<eos>", "<pad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<boi>", "<eoi>", "<audio>"]
    order += [place or "<none>", *(f"<{i}>" for i in range(6))]
    count = 256 + len(order)
    at = count - 7 if place else cases_fastvlm.TOKEN
    case = replace(case, text={**case.text, "vocab_size": count}, image_token=at)
    model = reference.build(case)
    folder = reference.save(model, tmp_path / "model")
    tokenizer(folder, marker, order)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    ours, processor = load(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Or"}, {"type": "image"}]}]
    images = [picture((40, 30)), picture((30, 70), 1)]
    inputs = processor(messages, images=images)
    ids, media = list(inputs.ids), {name: np.array(x) for name, x in inputs.media.items()}
    for _ in range(4):
        ids.append(int(reference.logits(model, case, reference.Prompt(np.array(ids), media))[-1].argmax()))
    for step in (11, 512):
        stream = stream_generate(ours, processor, messages, images=images, max_tokens=4, prefill_step_size=step)
        assert [piece.token for piece in stream] == ids[-4:]
