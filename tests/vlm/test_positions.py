"""M-RoPE's positions beside their first definition: text goes on behind the largest position of what came before it.

transformers 5.23 goes on behind the larger of an image's sides, whatever the length of a video; see docs/references.md.
"""

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxlm.load import load_model
from mlxlm.vision.positions import GridPositions

from . import reference
from .cases_qwen import CASES
from .reference import IMAGE, VIDEO, assert_close


def by_definition(ids, grids, intervals, merge):
    """Token by token: each item's grid is laid down once its first place comes."""
    columns, at = [], 0
    queue = list(zip(grids, intervals, strict=True))
    while at < len(ids):
        start = max((max(column) for column in columns), default=-1) + 1
        if ids[at] not in (IMAGE, VIDEO):
            columns.append((start,) * 3)
            at += 1
            continue
        (t, h, w), interval = queue.pop(0)
        for frame in range(t):
            for row in range(h // merge):
                for column in range(w // merge):
                    columns.append((start + int(frame * interval), start + row, start + column))
        at += t * h * w // merge**2
    return np.array(columns).T


def test_a_video_longer_than_wide(tmp_path):
    """Qwen 2.5 VL, two positions for a second's half: the text behind the video stands behind its last frame."""
    case = next(c for c in CASES if c.name == "qwen2_5_vl-windows")
    model = reference.build(case)
    prompt = reference.prompt(case, ((4, 6),), ((6, 4, 4), (2, 4, 8)))
    grids = [*prompt.media["image_grid_thw"].tolist(), *prompt.media["video_grid_thw"].tolist()]
    expected = by_definition(prompt.ids.tolist(), grids, (1, 2, 2), 2)
    media = {name: mx.array(x) for name, x in prompt.media.items()}
    positions = torch.from_numpy(expected)[:, None]
    with torch.no_grad():
        logits = model(**reference.arguments(case, prompt), position_ids=positions, use_cache=False).logits[0].numpy()
        theirs, _ = model.model.get_rope_index(**{
            k: v for k, v in reference.arguments(case, prompt).items() if not k.startswith("pixel")})
    loaded = load_model(reference.save(model, tmp_path / "model"))
    assert_close(np.array(loaded(mx.array(prompt.ids)[None], **media))[0], logits)
    assert (theirs[:, 0].numpy() != expected).any(), "transformers agrees now: docs/references.md can say so"


@pytest.mark.parametrize("first", [0, 17])
def test_positions_go_on_from_where_a_conversation_stands(first):
    rng = np.random.default_rng(5)
    place = GridPositions(2, (IMAGE, "image_grid_thw"), (VIDEO, "video_grid_thw"),
                          interval=lambda media, name, i: 1.7 if name == "video_grid_thw" else 1.0)
    for _ in range(20):
        ids, grids, intervals = list(rng.integers(3, 50, 4)), {IMAGE: [], VIDEO: []}, []
        order = []
        for kind in rng.choice([IMAGE, VIDEO], rng.integers(1, 4)):
            grid = [1 if kind == IMAGE else int(rng.integers(1, 9)), *(2 * rng.integers(1, 5, 2)).tolist()]
            grids[kind].append(grid)
            order.append(grid)
            intervals.append(1.0 if kind == IMAGE else np.float32(1.7))
            ids += [int(kind)] * (np.prod(grid) // 4) + list(rng.integers(3, 50, rng.integers(0, 3)))
        ids = [int(i) for i in ids]
        media = {"image_grid_thw": grids[IMAGE], "video_grid_thw": grids[VIDEO]}
        media = {name: mx.array(value) for name, value in media.items() if value}
        placed, expected = place(ids, media, first), by_definition(ids, order, intervals, 2)
        assert (placed.positions == expected + first).all()
        for at, shift in placed.shifts:
            assert expected[:, :at].max() + 1 == at + shift


@pytest.mark.parametrize("name", ["qwen2_5_vl-windows", "qwen3_vl-deepstack", "glm_ocr-images"])
def test_a_left_padded_batch(name, tmp_path):
    """Rows of other lengths, each with pictures of its own, are what they are alone; so is what they say next."""
    case = next(c for c in CASES if c.name == name)
    model = reference.build(case)
    prompts = [reference.prompt(case, case.sizes, length=7), reference.prompt(case, case.sizes[:1])]
    length = max(len(p.ids) for p in prompts)
    pads = [length - len(p.ids) for p in prompts]
    ids = np.stack([np.pad(p.ids, (pad, 0), constant_values=3) for p, pad in zip(prompts, pads, strict=True)])
    media = {k: mx.concatenate([mx.array(p.media[k]) for p in prompts]) for k in prompts[0].media}
    loaded = load_model(reference.save(model, tmp_path / "model"))
    cache = loaded.make_cache(left_padding=pads)
    found = [np.array(loaded(mx.array(ids), cache=cache, **media))]
    more = np.array([[5, 6], [7, 8]], np.int32)
    found += [np.array(loaded(mx.array(more[:, i : i + 1]), cache=cache)) for i in (0, 1)]
    found = np.concatenate(found, axis=1)
    for row, (prompt, pad) in enumerate(zip(prompts, pads, strict=True)):
        whole = reference.Prompt(np.concatenate([prompt.ids, more[row]]), prompt.media)
        assert_close(found[row, pad:], reference.logits(model, case, whole))


def test_glm_ocrs_videos_are_rows_of_images(tmp_path):
    """transformers takes a video's frames as such, in the places of images; to us they are images."""
    case = next(c for c in CASES if c.name == "glm_ocr-images")
    model = reference.build(case)
    prompt = reference.prompt(case, ((4, 6),) * 3)
    grids = np.array([[3, 4, 6]])
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(prompt.ids.astype(np.int64))[None],
            mm_token_type_ids=torch.from_numpy((prompt.ids == IMAGE) * 2)[None],
            pixel_values_videos=torch.from_numpy(prompt.media["pixel_values"]),
            video_grid_thw=torch.from_numpy(grids), use_cache=False).logits[0].numpy()
    loaded = load_model(reference.save(model, tmp_path / "model"))
    media = {name: mx.array(x) for name, x in prompt.media.items()}
    assert_close(np.array(loaded(mx.array(prompt.ids)[None], **media))[0], logits)
