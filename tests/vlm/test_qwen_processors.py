"""Qwen's and GLM-OCR's processors beside transformers': pixels, grids, token ids, sampling and times of videos."""

import json

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor
from transformers.models.glm46v.video_processing_glm46v import Glm46VVideoProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from mlxlm.errors import MediaError
from mlxlm.processor import media_processor
from mlxlm.processors.messages import Source
from mlxlm.text.tokenizer import Tokenizer

from . import tiny_processor

KINDS = {  # model_type: (processor, image processor, video processor, settings)
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLImageProcessorPil, Qwen2VLVideoProcessor,
                 {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 40}),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, Qwen2VLVideoProcessor,
                   {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 40}}),
    "qwen3_vl": (Qwen3VLProcessor, Qwen2VLImageProcessorPil, Qwen3VLVideoProcessor,
                 {"size": {"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * 60}, "patch_size": 16,
                  "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "glm_ocr": (Glm46VProcessor, Glm46VImageProcessorPil, Glm46VVideoProcessor,
                {"size": {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 100}}),
}
SIZES = ((97, 61), (300, 200), (40, 30), (20, 500))


def photo(width, height, seed=0):
    """An image with flat parts, edges and noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    x = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    x[: height // 3] += rng.integers(-20, 20, x[: height // 3].shape)
    return Image.fromarray(np.clip(x, 0, 255).astype(np.uint8))


@pytest.fixture(params=KINDS)
def pair(request, tmp_path):
    """(model_type, our processor, transformers')."""
    kind, images, videos, settings = KINDS[request.param]
    tiny_processor.tokenizer(tmp_path)
    name = {"image_processor_type": images.__name__.removesuffix("Pil"), "processor_class": kind.__name__}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, **name}))
    ours = media_processor(tmp_path, Tokenizer.from_folder(tmp_path), {"model_type": request.param})
    theirs = dict(image_processor=images(**settings), chat_template=tiny_processor.TEMPLATE,
                  tokenizer=PreTrainedTokenizerFast.from_pretrained(tmp_path))
    theirs["video_processor"] = videos(**settings)
    if request.param != "glm_ocr":
        clip = {"size": {"shortest_edge": 64 * 64, "longest_edge": 28 * 28 * 300}}
        clip |= {"patch_size": 16} if request.param == "qwen3_vl" else {}
        theirs["video_processor"] = videos(**clip)
        (tmp_path / "video_preprocessor_config.json").write_text(
            json.dumps({**clip, "video_processor_type": videos.__name__}))
        ours = media_processor(tmp_path, ours.tokenizer, {"model_type": request.param})
    return request.param, ours, kind(**theirs)


def levels(processor, difference):
    """A difference of normalized values in steps of 8-bit pixels."""
    return np.abs(difference).max() * min(processor.image_std) * 255


def test_images_of_many_sizes(pair):
    _, ours, theirs = pair
    for size in SIZES:
        image = photo(*size)
        found, expected = ours.image_processor([image]), theirs.image_processor([image], return_tensors="np")
        assert (found["image_grid_thw"] == expected["image_grid_thw"]).all()
        assert levels(ours.image_processor, found["pixel_values"] - expected["pixel_values"]) < 0.01


def test_prompts_with_several_images(pair):
    _, ours, theirs = pair
    pictures = [photo(97, 61), photo(150, 80, 1)]
    marker = ours._inline("image")
    text = f"<|im_start|>user\nA {marker} and {marker}: compare ¡them!<|im_end|>\n"
    found = ours(text, images=pictures)
    expected = theirs(text=[text], images=pictures, return_tensors="np")
    assert found.ids == expected["input_ids"][0].tolist()
    media = found.media
    assert set(media) == {"pixel_values", "image_grid_thw"}
    assert levels(ours.image_processor, np.array(media["pixel_values"]) - expected["pixel_values"]) < 0.01
    assert [end - start for start, end, _ in found.items] == [int(g.prod()) // 4 for g in expected["image_grid_thw"]]
    alike = ours(text, images=np.stack([np.asarray(pictures[0])] * 2))
    assert alike.keys[: found.items[0][1]] == found.keys[: found.items[0][1]]
    assert alike.keys[alike.items[1][0]] != found.keys[found.items[1][0]]
    rest = found.after(found.items[0][1])
    assert rest.ids == found.ids[found.items[0][1] :] and len(rest.items) == 1
    with pytest.raises(MediaError, match="can't be cut"):
        found.after(found.items[1][0] + 1)


def test_messages_with_interleaved_parts(pair):
    kind, ours, theirs = pair
    if kind == "glm_ocr":
        pytest.skip("the tiny template is Qwen's")
    pictures = [photo(97, 61), photo(150, 80, 1)]
    parts = [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": " two "}, {"type": "image"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts},
                {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}]
    text = theirs.apply_chat_template(messages, add_generation_prompt=True)
    expected = theirs(text=[text], images=pictures)["input_ids"][0]
    assert ours(messages, images=pictures).ids == list(expected)
    own = [{"type": "image", "image": pictures[0]}, {"type": "image_url", "image_url": pictures[1]}]
    parts = [parts[0], own[0], parts[2], own[1]]
    assert ours([messages[0], {"role": "user", "content": parts}, *messages[2:]]).ids == list(expected)
    first = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    expected = theirs(text=[theirs.apply_chat_template(first, add_generation_prompt=True)], images=pictures[:1])
    for prompt in ("What?", [{"role": "user", "content": "What?"}]):
        assert ours(prompt, images=pictures[0]).ids == list(expected["input_ids"][0])


def film(path, frames, rate, size=(96, 64), codec="mpeg4"):
    """A film whose frames can be told apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            image = photo(*size, seed=i // 4)
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize("frames, rate", [(47, 12), (200, 30), (9, 24), (250, 5)])
def test_films(pair, tmp_path, frames, rate):
    kind, ours, theirs = pair
    path = film(tmp_path / "film.mp4", frames, rate)
    with av.open(str(path)) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    metadata = VideoMetadata(total_num_frames=len(decoded), fps=float(rate), duration=len(decoded) / rate)
    text = f"<|im_start|>user\n{ours._inline('video')} What?<|im_end|>\n"
    expected = theirs(text=[text], videos=[torch.from_numpy(decoded).permute(0, 3, 1, 2)], video_metadata=[metadata],
                      do_sample_frames=True, **({} if kind == "glm_ocr" else {"fps": 2.0}), return_tensors="np")
    found = ours(text, videos=path)
    assert found.ids == expected["input_ids"][0].tolist()
    media = {name: np.array(x) for name, x in found.media.items()}
    if kind == "glm_ocr":  # whose video is images to us, one for each pair of frames
        grids, pixels = media.pop("image_grid_thw"), media.pop("pixel_values")
        media = {"pixel_values_videos": pixels, "video_grid_thw": np.array([[len(grids), *grids[0][1:]]])}
    assert (media["video_grid_thw"] == expected["video_grid_thw"]).all()
    assert levels(ours.video_processor, media["pixel_values_videos"] - expected["pixel_values_videos"]) <= 2.01
    assert set(media) <= set(expected)
    if kind == "qwen2_5_vl":
        assert np.allclose(media["second_per_grid_ts"], expected["second_per_grid_ts"])


def test_films_from_bytes_and_frames(pair, tmp_path):
    kind, ours, _ = pair
    path = film(tmp_path / "film.mp4", 30, 10)
    text = f"{ours._inline('video')} What?"
    whole = ours(text, videos=str(path))
    assert ours(text, videos=path.read_bytes()).ids == whole.ids
    frames = [photo(96, 64, seed=i) for i in range(4)]
    found = ours(text, videos=[{"frames": frames, "fps": 1}])
    arrays = [np.asarray(frame) for frame in frames]
    for same in (frames, arrays, np.stack(arrays), np.stack(arrays)[None], [np.stack(arrays)]):
        assert ours(text, videos=same).ids == ours(text, videos=[frames]).ids
    grids = "image_grid_thw" if kind == "glm_ocr" else "video_grid_thw"
    assert found.media[grids].tolist() == ours(text, videos=[frames]).media[grids].tolist()
    if kind == "qwen3_vl":
        times = [t for t in ours.tokenizer.decode(found.ids).split("<") if "seconds" in t]
        assert times == ["0.5 seconds>", "2.5 seconds>"]


def test_counts_that_do_not_fit(pair):
    _, ours, _ = pair
    marker, picture = ours._inline("image"), photo(97, 61)
    with pytest.raises(MediaError, match=r"as many images are needed as the prompt has markers.*found 1; expected 2"):
        ours(f"{marker} {marker}", images=picture)
    with pytest.raises(MediaError, match="found 2; expected 1"):
        ours(f"{marker}", images=[picture, picture])
    waiting = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]
    with pytest.raises(MediaError, match=r"messages\[0\].content\[1\].*without a source"):
        ours(waiting, images=picture)
    with pytest.raises(MediaError, match=r"more images than parts.*found 3; expected 2"):
        ours(waiting, images=[picture] * 3)
    with pytest.raises(MediaError, match="as many images"):
        ours([{"role": "user", "content": f"A literal {marker} in text."}])
    with pytest.raises(MediaError, match="too long for its width"):
        ours(marker, images=Image.new("RGB", (2010, 10)))


def test_settings_where_no_file_has_any(tmp_path):
    tiny_processor.tokenizer(tmp_path)
    config = {"model_type": "qwen3_5", "vision_config": {"patch_size": 8, "spatial_merge_size": 4}}
    made = media_processor(tmp_path, Tokenizer.from_folder(tmp_path), config)
    for part in (made.image_processor, made.video_processor):
        assert (part.patch_size, part.merge_size, part.temporal_patch_size) == (8, 4, 2)
        assert tuple(part.image_mean) == tuple(part.image_std) == (0.5, 0.5, 0.5)
        assert part.size == {"shortest_edge": 65_536, "longest_edge": 16_777_216}


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_said_of_images_holds_for_videos(tmp_path, nested):
    """As transformers reads older checkpoints, which have one file for both, and its own, which have one for all."""
    tiny_processor.tokenizer(tmp_path)
    own = {"min_pixels": 3136, "max_pixels": 50_000, "image_processor_type": "Qwen2VLImageProcessor"}
    if nested:
        (tmp_path / "processor_config.json").write_text(
            json.dumps({"processor_class": "Qwen2_5_VLProcessor", "image_processor": own}))
    else:
        own = {"processor_class": "Qwen2_5_VLProcessor", **own}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    made = media_processor(tmp_path, Tokenizer.from_folder(tmp_path), {"model_type": "qwen2_5_vl"})
    for part in (made.image_processor, made.video_processor):
        assert part.size == {"shortest_edge": 3136, "longest_edge": 50_000}


def test_a_template_that_knows_text_only(pair):
    """Markers are written for it where media stand; another template at any time is another matter."""
    _, ours, _ = pair
    parts = [{"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": " b"}]
    messages, picture = [{"role": "user", "content": parts}], photo(97, 61)
    ours.chat_template = "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] }}{% endfor %}"
    found = ours(messages, images=picture)
    assert found.ids == ours(f"[user] a {ours._inline('image')} b", images=picture).ids
    ours.chat_template = ("{% for m in messages %}{% for p in m['content'] %}{{ p['text'] if p['type'] == 'text' else '"
                          + ours.markers["image"] + "' }}{% endfor %}{% endfor %}")
    assert ours(messages, images=picture).ids == ours(f"a {ours.markers['image']} b", images=picture).ids
    assert ours([{"role": "user", "content": "text alone"}]).ids == ours.tokenizer.encode("text alone")


def test_media_are_made_ready_once(pair, tmp_path, monkeypatch):
    """Until their file, their content or the settings change."""
    _, ours, _ = pair
    made, kind = [], type(ours.image_processor)
    monkeypatch.setattr(kind, "__call__", lambda self, images, call=kind.__call__: made.append(1) or call(self, images))
    path, marker, picture = tmp_path / "a.png", ours._inline("image"), photo(97, 61)
    picture.save(path)
    data = path.read_bytes()
    for source in (path, data, picture, np.asarray(picture)):
        before = len(made)
        found = [ours(marker, images=source), ours(marker, images=source)]
        assert len(made) == before + 1 and found[0].ids == found[1].ids and found[0].keys == found[1].keys
    picture.putpixel((0, 0), (1, 2, 3))
    assert ours(marker, images=picture).keys != found[0].keys
    photo(40, 30).save(path)
    assert ours(marker, images=path).keys != found[0].keys
    before = len(made)
    ours.image_processor.image_mean = [0.25] * 3
    assert ours(marker, images=data).keys != found[0].keys and len(made) == before + 1
    with pytest.raises(MediaError, match="may not name files"):
        ours.inputs(marker, [Source("image", str(path), False)])
