"""Towers before decoders through load, generate and conversations: the reference's tokens, a fresh run's logits."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mlxlm import load, stream_generate
from mlxlm.chat import ChatSession
from mlxlm.vlm import Prompt

from . import reference
from .cases_halves import CLIP, GEMMA, LFM2, NAFLEX, PINPOINTS, PIXTRAL, SIGLIP, SPLIT
from .reference import Case
from .test_images_halves import TILES, image
from .test_processors_halves import (
    NAMED,
    SPECIAL,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PaliGemmaProcessor,
    PixtralImageProcessorPil,
    PixtralProcessor,
    SmolVLMImageProcessorPil,
    SmolVLMVideoProcessor,
    in_words,
    processing_smolvlm,
    siglip,
    tokenizer,
)

SQUARE = dict(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
VOCAB = len(SPECIAL) + 256
MARKERS = {"gemma3": "<start_of_image>", "mistral3": "[IMG]"}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}MARKER{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def place(token):
    return SPECIAL.index(token)


# A type's settings, the token of its places, and its reference's processor of a tokenizer.
KINDS = {
    "gemma3": (
        dict(text=dict(GEMMA, num_hidden_layers=2, sliding_window=40, rope_parameters=SPLIT,
                       layer_types=["sliding_attention", "full_attention"]),
             vision=SIGLIP, root=dict(mm_tokens_per_image=9)),
        "<image_soft_token>",
        lambda t: Gemma3Processor(Gemma3ImageProcessorPil(size={"height": 24, "width": 24}), t, image_seq_length=9),
    ),
    "paligemma": (
        dict(text=dict(model_type="gemma", head_dim=16), vision=SIGLIP, root=dict(projection_dim=64)),
        "<image>",
        lambda t: PaliGemmaProcessor(siglip36(), t),
    ),
    "idefics3": (
        dict(text=dict(model_type="llama"), vision={**SIGLIP, "model_type": "idefics3_vision"}),
        "<image>",
        lambda t: Idefics3Processor(
            Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24}), t,
            image_seq_len=9,
        ),
    ),
    "llava": (
        dict(text=dict(model_type="llama"), vision=CLIP),
        "<image>",
        lambda t: LlavaProcessor(LlavaImageProcessorPil(**SQUARE), t, 4, "default", num_additional_image_tokens=1),
    ),
    "llava_next": (
        dict(text=dict(model_type="llama"), vision=CLIP, root=dict(image_grid_pinpoints=PINPOINTS)),
        "<image>",
        lambda t: LlavaNextProcessor(
            LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=PINPOINTS), t, 4, "default",
            num_additional_image_tokens=1,
        ),
    ),
    "mistral3": (
        dict(text=dict(model_type="mistral", sliding_window=None), vision=PIXTRAL,
             root=dict(tie_word_embeddings=False)),
        "[IMG]",
        lambda t: PixtralProcessor(
            PixtralImageProcessorPil(size={"longest_edge": 48}), t, patch_size=4, spatial_merge_size=2
        ),
    ),
    "lfm2_vl": (
        dict(text=LFM2, vision=NAFLEX, root=dict(projector_hidden_size=40)),
        "<image>",
        lambda t: Lfm2VlProcessor(Lfm2VlImageProcessor(**TILES), t),
    ),
}  # fmt: skip


def siglip36():
    images = siglip()
    images.image_seq_length = 36
    return images


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """(type, folder, the reference's model and processor, ours) of a checkpoint with all its files."""
    kind = request.param
    settings, token, processor = KINDS[kind]
    folder = tmp_path_factory.mktemp(kind) / "model"
    root = {**settings.get("root", {}), "eos_token_id": 1}
    case = Case(kind, "generate", **{**settings, "root": root, "text": {**settings["text"], "vocab_size": VOCAB}},
                image_token=place(token))
    model = reference.build(case)
    reference.save(model, folder)
    theirs, _ = tokenizer(folder, **(NAMED if kind == "gemma3" else {}))
    theirs.chat_template = None if kind == "paligemma" else TEMPLATE.replace("MARKER", MARKERS.get(kind, "<image>"))
    whole = processor(theirs)
    whole.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return kind, folder, (model, whole), load(folder)


def test_answers_are_the_references(made):
    kind, folder, (_, theirs), (model, processor) = made
    their_model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").float().eval()
    images = [image(40, 30), image(30, 60)]
    marker = MARKERS.get(kind, "<image>")
    text = f"{marker}{marker}What?" if kind == "paligemma" else f"One {marker} or {marker}?"
    inputs = theirs(text=text, images=[images] if kind == "paligemma" else images, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    inputs.pop("labels", None)
    with torch.no_grad():
        expected = their_model.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=1)
    expected = expected[0, length:].tolist()
    for step in (11, 512):
        stream = stream_generate(model, processor, text, images=images, max_tokens=6, prefill_step_size=step)
        assert sum(1 for _ in stream) == len(stream.tokens)
        assert stream.tokens == expected[: len(stream.tokens)] and len(stream.tokens) >= min(6, len(expected)) - 1


def test_a_conversation_with_images_in_its_first_and_third_turn(made):
    kind, _, _, (model, processor) = made
    if kind == "paligemma":
        pytest.skip("it answers one question")
    chat, history, images = ChatSession(model, processor, max_tokens=4, top_logprobs=0), [], []
    for text, picture in (("What is it?", image(40, 30)), ("And its colour?", None), ("This one?", image(30, 60))):
        events = list(chat.stream(text, images=[picture] if picture else None))
        images += [picture] if picture else []
        history.append({"role": "user", "content": [*([{"type": "image"}] if picture else []),
                                                    {"type": "text", "text": text}]})
        inputs = processor(history, images=list(images))
        expected = np.array(model(mx.array(inputs.ids)[None], cache=model.make_cache(), **inputs.media))[0, -1]
        assert np.abs(np.array(events[0].piece.logits) - expected).max() <= 2e-5 * expected.std()
        history.append({"role": "assistant", "content": chat.messages[-1]["content"]})
    assert events[-1].piece.stats.cached_tokens > 0


def test_a_video_among_the_references_answers(tmp_path, monkeypatch):
    """SmolVLM sees a film's frames as images of one tile."""
    monkeypatch.setattr(processing_smolvlm, "num2words", in_words)
    tile = dict(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    case = Case("smolvlm", "video", text=dict(model_type="llama", vocab_size=VOCAB), root={"eos_token_id": 1},
                vision={**SIGLIP, "model_type": "smolvlm_vision"}, image_token=place("<image>"))
    folder = tmp_path / "model"
    their_model = reference.build(case)
    reference.save(their_model, folder)
    theirs, _ = tokenizer(folder)
    theirs.chat_template = TEMPLATE.replace("MARKER", "<image>")
    whole = processing_smolvlm.SmolVLMProcessor(
        SmolVLMImageProcessorPil(**tile), theirs, SmolVLMVideoProcessor(**tile, num_frames=8, fps=1), image_seq_len=9
    )
    whole.save_pretrained(folder)
    model, processor = load(folder)
    frames = [image(30, 50).rotate(9 * i) for i in range(5)]
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}]
    inputs = processor(messages, videos=[{"frames": frames, "fps": 1}])
    arrays = {name: torch.tensor(np.array(x)) for name, x in inputs.media.items()}
    assert arrays["pixel_values"].shape == (1, 5, 3, 24, 24)
    with torch.no_grad():
        expected = their_model(input_ids=torch.tensor([inputs.ids]), **arrays).logits[0].numpy()
    found = model(mx.array(inputs.ids)[None], **inputs.media)
    reference.assert_close(np.array(found)[0], expected)
    stream = stream_generate(model, processor, messages, videos=[{"frames": frames, "fps": 1}], max_tokens=2)
    assert next(piece.token for piece in stream) == expected[-1].argmax()


def test_text_between_images_needs_no_mask():
    prompt = Prompt(mx.zeros((1, 10, 4)), shared={"together": mx.zeros((1, 10), mx.int32)}, whole=((3, 6),))
    assert [list(prompt.part(a, b).shared) for a, b in ((0, 3), (2, 6), (6, 10))] == [[], ["together"], []]
    assert list(prompt.cuts(4, 10)) == [(0, 3), (3, 7), (7, 10)]
