"""Vision-language models through load, generate and ChatSession, on a tiny Qwen 2.5 VL with a tokenizer of bytes."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from PIL import Image

from mlxlm import generate, load, stream_generate
from mlxlm.chat import ChatSession
from mlxlm.decoder import Decoder
from mlxlm.errors import GenerationError, MediaError
from mlxlm.generate.prefix_store import PrefixStore
from mlxlm.processors.base import Processor
from mlxlm.processors.messages import MediaPolicy
from mlxlm.text.tokenizer import Tokenizer
from mlxlm.vlm import Features, VisionLanguage

from . import reference, tiny_processor
from .cases_qwen import ROPE, VISION
from .reference import Case

SIZE = {"shortest_edge": 16 * 16, "longest_edge": 40 * 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with its tokenizer and processor files."""
    path = tmp_path_factory.mktemp("tiny") / "model"
    size = tiny_processor.tokenizer(path)
    ids = {f"{kind}_token_id": tiny_processor.IDS[f"<|{kind}_pad|>"] for kind in ("image", "video")}
    case = Case("qwen2_5_vl", "generate", text=dict(vocab_size=size, rope_parameters=ROPE, eos_token_id=2),
                vision=dict(VISION, window_size=16, fullatt_block_indexes=[1], tokens_per_second=2), root=ids,
                image_token=ids["image_token_id"], video_token=ids["video_token_id"])
    reference.save(reference.build(case), path)
    settings = {"size": SIZE, "patch_size": 4, "image_processor_type": "Qwen2VLImageProcessor"}
    (path / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "Qwen2_5_VLProcessor"}))
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder)


def picture(seed: int, size=(40, 24)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def fresh(model, processor, messages, **media) -> np.ndarray:
    """The logits after a whole history, read at once with a new cache."""
    inputs = processor(messages, **media)
    return np.array(model(mx.array(inputs.ids)[None], cache=model.make_cache(), **inputs.media))[0, -1]


def test_load_tells_one_from_the_other(folder, loaded):
    model, processor = loaded
    assert isinstance(model, VisionLanguage) and isinstance(processor, Processor)
    assert isinstance(model.language_model, Decoder) and model.model_type == "qwen2_5_vl"
    text, tokenizer = load(folder, text_only=True)
    assert isinstance(text, Decoder) and isinstance(tokenizer, Tokenizer)
    prompt = "Without a picture"
    assert generate(model, processor, prompt, max_tokens=6) == generate(text, tokenizer, prompt, max_tokens=6)


def test_answers_are_the_references(folder, loaded):
    from transformers import AutoModelForImageTextToText

    model, processor = loaded
    theirs = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").float().eval()
    inputs = processor("What?", images=[picture(1), picture(2, (24, 40))])
    media = {name: torch.from_numpy(np.array(x)) for name, x in inputs.media.items()}
    ids = torch.tensor([inputs.ids])
    types = (ids == tiny_processor.IDS["<|image_pad|>"]).long()
    with torch.no_grad():
        expected = theirs.generate(input_ids=ids, mm_token_type_ids=types, do_sample=False, max_new_tokens=8,
                                   eos_token_id=2, **media)[0, ids.shape[1] :].tolist()
    for step in (4, 512):
        stream = stream_generate(model, processor, "What?", images=[picture(1), picture(2, (24, 40))], max_tokens=8,
                                 prefill_step_size=step)
        assert sum(1 for _ in stream) == len(stream.tokens) and stream.tokens == expected
    assert stream.prompt.tolist() == inputs.ids
    again = stream_generate(model, processor, inputs, max_tokens=8)
    assert [piece.token for piece in again] == expected


def test_a_conversation_with_images_in_its_first_and_third_turn(loaded):
    model, processor = loaded
    seen: list[np.ndarray] = []
    chat = ChatSession(model, processor, max_tokens=5, top_logprobs=0)
    history, images = [], []
    model.features.clear()
    for text, image in (("What is it?", picture(1)), ("And its colour?", None), ("This one?", picture(2, (24, 40)))):
        before = model.features.nbytes
        events = list(chat.stream(text, images=[image] if image else None))
        if image is not None:
            images.append(image)
        content = [*([{"type": "image"}] if image else []), {"type": "text", "text": text}]
        history.append({"role": "user", "content": content})
        expected = fresh(model, processor, history, images=list(images))
        seen.append(np.array(events[0].piece.logits))
        assert np.abs(seen[-1] - expected).max() <= 1e-5 * expected.std()
        assert (model.features.nbytes > before) == (image is not None)
        history.append({"role": "assistant", "content": chat.messages[-1]["content"]})
        last = events[-1].piece.stats
        assert (last.cached_tokens > 0) == (len(seen) > 1)  # the next turn reads only what is new


def test_another_picture_of_the_same_size_is_another_prompt(loaded):
    model, processor = loaded
    chat = ChatSession(model, processor, max_tokens=4)
    chat.respond("Look", images=[picture(5)])
    chat.undo()
    events = list(chat.stream("Look", images=[picture(6)]))
    expected = fresh(model, processor, "Look", images=[picture(6)])
    assert np.abs(np.array(events[0].piece.logits) - expected).max() <= 1e-5 * expected.std()


def test_what_a_message_may_name(loaded, tmp_path):
    model, processor = loaded
    path = tmp_path / "a.png"
    picture(1).save(path)
    expected = processor("Look", images=str(path)).ids

    def asked(source, **more):
        parts = [{"type": "image", "image": source}, {"type": "text", "text": "Look"}]
        return stream_generate(model, processor, [{"role": "user", "content": parts}], max_tokens=1, **more)

    with pytest.raises(MediaError, match=r"messages\[0\].content\[0\].*may not name files"):
        asked(str(path))
    with pytest.raises(MediaError, match="may not name files"):
        asked(f"file://{path}")
    with pytest.raises(MediaError, match="only http and https"):
        asked("ftp://example.com/a.png")
    allowed = {"media_policy": MediaPolicy(local_paths=True)}
    for source, more in ((path, {}), (path.read_bytes(), {}), (str(path), allowed)):
        assert asked(source, **more).prompt.tolist() == expected


def test_media_where_they_make_no_sense(folder, loaded):
    model, processor = loaded
    text, tokenizer = load(folder, text_only=True)
    with pytest.raises(MediaError, match="reads text only"):
        generate(text, tokenizer, "Look", images=[picture(1)])
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    with pytest.raises(MediaError, match="reads text only"):
        generate(text, tokenizer, [{"role": "user", "content": parts}])
    with pytest.raises(MediaError, match="text or messages"):
        generate(model, processor, [1, 2, 3], images=[picture(1)])
    with pytest.raises(MediaError, match="too many images"):
        generate(model, processor, "Look", images=[picture(1)] * 3, media_policy=MediaPolicy(max_items=2))
    inputs = processor("Look", images=[picture(1)])
    with pytest.raises(GenerationError, match="doesn't keep as many places"):
        model(mx.array(inputs.ids[:-40])[None], **inputs.media)
    with pytest.raises(GenerationError, match="doesn't take"):
        model(mx.array(inputs.ids)[None], **inputs.media, pixels=mx.zeros(1))
    pixels = inputs.media["pixel_values"]
    for grid in (None, [[1, 3, 5]], [[1, len(pixels), 1]], [[0, 4, 4]]):
        with pytest.raises(GenerationError, match=r"missing|don't fit|whole blocks"):
            model(mx.array(inputs.ids)[None], pixel_values=pixels, image_grid_thw=grid and mx.array(grid))


def test_a_cancelled_prompt_leaves_a_cache_that_goes_on(loaded):
    """The state stands where it stopped, images and positions too."""
    model, processor = loaded
    cache, stops = model.make_cache(), iter([False] * 3)
    inputs = processor("Look at it and tell", images=[picture(1)])
    stream = stream_generate(model, processor, inputs, cache=cache, prefill_step_size=5,
                             cancel=lambda: next(stops, True))
    assert [piece.finish_reason for piece in stream] == ["cancelled"]
    done = inputs.prefix(cache.offset)
    assert 0 < cache.offset < len(inputs.ids)
    if cache.offset != done:
        cache.trim(cache.offset - done)
    rest = inputs.after(done)
    logits = model(mx.array(rest.ids)[None], cache=cache, **rest.media)[0, -1]
    expected = fresh(model, processor, "Look at it and tell", images=[picture(1)])
    assert np.abs(np.array(logits) - expected).max() <= 1e-5 * expected.std()


def test_the_command_line_takes_pictures(folder, loaded, tmp_path):
    from click.testing import CliRunner

    from mlxlm.cli.generate import command

    picture(1).save(tmp_path / "one.png")
    asked = [str(folder), "What?", "--image", str(tmp_path / "one.png"), "--json", "--max-tokens", "4"]
    done = CliRunner().invoke(command, asked)
    answer = json.loads(done.output)
    assert answer["prompt_token_ids"] == loaded[1]("What?", images=picture(1)).ids
    assert answer["text"] == generate(*loaded, [{"role": "user", "content": "What?"}], images=picture(1), max_tokens=4)
    missing = CliRunner().invoke(command, [*asked[:3], str(tmp_path / "two.png")])
    assert isinstance(missing.exception, MediaError) and "not there" in str(missing.exception)


def test_a_store_of_prefixes_tells_pictures_apart(loaded):
    model, processor = loaded
    store = PrefixStore(every=8)

    def asked(seed, *more):
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}, *more]
        stream = stream_generate(model, processor, messages, images=[picture(seed)], max_tokens=4, prefix_store=store)
        first = next(stream)
        expected = fresh(model, processor, messages, images=[picture(seed)])
        assert np.abs(np.array(first.logits) - expected).max() <= 1e-5 * expected.std()
        return sum(1 for _ in stream) and stream.stats.cached_tokens

    head = processor("What is it?", images=picture(1)).items[0][0]
    turns = ({"role": "assistant", "content": "A cat."}, {"role": "user", "content": "And now?"})
    assert asked(1) == 0
    assert 0 < asked(2) <= head
    assert asked(1, *turns) > head
    assert asked(2, *turns) > head


@pytest.mark.parametrize("guess", [{"prompt_lookup": True}, {"kv_bits": 8}, {"max_kv_size": 64}])
def test_other_ways_to_generate(loaded, guess):
    """Guessing ahead changes nothing; coarser or shorter memories run."""
    model, processor = loaded
    told = {"images": [picture(1)], "max_tokens": 12}
    plain = stream_generate(model, processor, "Look look look", **told)
    other = stream_generate(model, processor, "Look look look", **told, **guess)
    tokens = [[piece.token for piece in stream if piece.token is not None] for stream in (plain, other)]
    assert len(tokens[1]) == 12
    if "prompt_lookup" in guess:
        assert tokens[0] == tokens[1]


def test_batches_and_information(folder, loaded):
    from click.testing import CliRunner

    from mlxlm.cli.info import command
    from mlxlm.generate.engine import batch_generate

    model, processor = loaded
    parts = [[{"type": "image", "image": picture(i)}, {"type": "text", "text": "Ab" * i}] for i in (1, 2)]
    prompts = [*([{"role": "user", "content": content}] for content in parts), "Text alone"]
    found = batch_generate(model, processor, prompts, max_tokens=6).texts
    assert found == [generate(model, processor, prompt, max_tokens=6) for prompt in prompts]
    told = CliRunner().invoke(command, [str(folder)])
    assert told.exit_code == 0 and "qwen2_5_vl" in told.output


def test_features_are_kept_by_content_and_bounded():
    looks = []

    def look(item):
        looks.append(int(item["x"][0].item()))
        return mx.zeros((4, 8))  # 128 bytes

    features = Features(max_bytes=300)
    for value, made in ((1, True), (1, False), (2, True), (1, False), (3, True), (1, False), (2, True), (3, True)):
        before = len(looks)
        features.get({"x": mx.array([value])}, look)
        assert (len(looks) > before) == made and features.nbytes <= 300
    features.get({"x": mx.array([1.0])}, look)  # as large, but no whole number
    assert looks[-1] == 1 and Features(max_bytes=0).get({"x": mx.array([9])}, look).nbytes == 128
    features.clear()
    assert features.nbytes == 0


def test_other_weights_see_other_things(folder):
    model, processor = load(folder)
    inputs = processor("Look", images=picture(1))
    first = np.array(model(mx.array(inputs.ids)[None], **inputs.media))
    weight = model.vision_tower.patch_embed.proj.weight
    model.update({"vision_tower": {"patch_embed": {"proj": {"weight": 2 * weight}}}})
    assert np.abs(np.array(model(mx.array(inputs.ids)[None], **inputs.media)) - first).max() > 1e-2
