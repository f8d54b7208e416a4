"""Every vision-language type beside transformers: towers, merged embeddings, logits, decoding and chunks."""

from functools import lru_cache

import mlx.core as mx
import numpy as np
import proven
import pytest

from mlxlm.load import load_model

from . import reference
from .cases import CASES
from .reference import assert_close


@lru_cache(maxsize=2)
def reference_of(name):
    case = next(c for c in CASES if c.name == name)
    return case, reference.build(case)


@pytest.fixture(params=[c.name for c in CASES])
def row(request):
    reference.errors.clear()
    case, model = reference_of(request.param)
    yield case, model
    note("vision", case, model)


def note(table, case, model, recurrent=False):
    if reference.errors:
        against = reference.of(case, model)
        proven.note(table, case.model_type, case.variant, max(reference.errors), against, recurrent)


@pytest.fixture
def loaded(row, tmp_path):
    case, model = row
    ours = load_model(reference.save(model, tmp_path / "model"))
    yield ours
    note("vision", case, model, proven.is_recurrent(ours.make_cache()))


def prompts(case):
    """One image, two of different sizes, and videos where the family has them."""
    found = [reference.prompt(case, case.sizes[:1]), reference.prompt(case, case.sizes)]
    if case.videos:
        found += [reference.prompt(case, (), case.clips), reference.prompt(case, case.sizes[:1], case.clips[:1])]
    return found


def arrays(prompt):
    return {name: mx.array(x) for name, x in prompt.media.items()}


def run(model, prompt, cache=None):
    return np.array(model(mx.array(prompt.ids)[None], cache=cache, **arrays(prompt)))[0]


def test_towers_and_merged_embeddings(row, loaded):
    case, model = row
    for prompt in prompts(case):
        state = loaded.make_cache()
        merged = loaded.merge(mx.array(prompt.ids)[None], state, arrays(prompt))
        x = merged.x[0] if isinstance(merged.x, tuple) else merged.x
        assert_close(np.array(x)[0], reference.embeddings(model, case, prompt))
        if not ("pixel_values" in prompt.media and "pixel_values_videos" in prompt.media):
            ids = mx.array(prompt.ids)[None]
            seen = [r.first for s in loaded._sights for r in loaded._seen(s, ids, arrays(prompt))]
            assert_close(np.concatenate([np.array(r) for r in seen]), reference.rows(model, case, prompt))


def test_logits_of_a_whole_prompt(row, loaded):
    case, model = row
    for prompt in prompts(case):
        assert_close(run(loaded, prompt), reference.logits(model, case, prompt))


def test_text_alone(row, loaded):
    case, model = row
    prompt = reference.prompt(case, length=9)
    assert_close(run(loaded, prompt), reference.logits(model, case, prompt))


def test_decoding_and_more_text_after_media(row, loaded):
    case, model = row
    prompt = prompts(case)[-1]
    rest = np.random.default_rng(3).integers(3, 80, 6).astype(np.int32)
    whole = reference.Prompt(np.concatenate([prompt.ids, rest]), prompt.media)
    cache = loaded.make_cache()
    found = [run(loaded, prompt, cache)]
    for part in (rest[:1], rest[1:2], rest[2:]):
        found.append(np.array(loaded(mx.array(part)[None], cache=cache))[0])
    assert_close(np.concatenate(found), reference.logits(model, case, whole))


def test_chunks_of_a_media_prompt(row, loaded):
    case, model = row
    prompt = prompts(case)[-1]
    state = loaded.make_cache()
    merged = loaded.merge(mx.array(prompt.ids)[None], state, arrays(prompt))
    found = [np.array(loaded.speak(merged.part(a, b), state))[0] for a, b in merged.cuts(7, len(merged))]
    assert_close(np.concatenate(found), reference.logits(model, case, prompt))


def test_another_image_later_and_tokens_taken_back(row, loaded):
    """The state knows where positions go on, also once the last image was taken back or in a copy."""
    case, model = row
    if not case.turns:
        pytest.skip("the reference reads all prompts of a conversation as one")
    first, second = reference.prompt(case, case.sizes[:1]), reference.prompt(case, case.sizes[1:2])
    ids = np.concatenate([first.ids, second.ids])
    media = {k: np.concatenate([first.media[k], second.media[k]], case.axis) for k in first.media}
    expected = reference.logits(model, case, reference.Prompt(ids, media))
    cache = loaded.make_cache()
    assert_close(run(loaded, first, cache), expected[: len(first.ids)])
    kept = cache.copy()
    assert_close(run(loaded, second, cache), expected[len(first.ids) :])
    assert_close(run(loaded, second, kept), expected[len(first.ids) :])
    text = reference.prompt(case, length=4)
    if cache.trim(len(second.ids)):
        both = reference.Prompt(np.concatenate([first.ids, text.ids]), first.media)
        assert_close(run(loaded, text, cache), reference.logits(model, case, both)[len(first.ids) :])


def test_the_tower_runs_once_for_an_image(row, loaded):
    case, _ = row
    prompt, looks = prompts(case)[1], []
    for name in ("_sights",):
        sights = tuple(
            type(s)(s.names, s.token, lambda item, look=s.look: looks.append(1) or look(item), s.split)
            for s in getattr(loaded, name)
        )
        setattr(loaded, name, sights)
    first, looked = run(loaded, prompt), len(looks)
    again = run(loaded, prompt)
    # A look is an image, or a tile of one.
    assert len(case.sizes) <= looked == len(looks) and (first == again).all()


def test_the_text_half_loads_alone(row, tmp_path):
    case, model = row
    decoder = load_model(reference.save(model, tmp_path / "model"), text_only=True)
    prompt = reference.prompt(case, length=9)
    assert not hasattr(decoder, "vision_tower")
    assert_close(run(decoder, prompt), reference.logits(model, case, prompt))
    note("halves", case, model, proven.is_recurrent(decoder.make_cache()))
