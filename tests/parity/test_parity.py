"""The columns of the parity matrix: whatever way the tokens and the weights come in, the logits are the reference's."""

from functools import lru_cache

import mlx.core as mx
import numpy as np
import proven
import pytest

from mlxlm.load import load_model

from . import reference
from .cases import CASES

BOUND = 1e-4  # of the reference's spread
CHUNKS = (7, 1, 12, 13)
ERRORS: list[float] = []  # of the test that runs
RECURRENT: dict[str, bool] = {}


@lru_cache(maxsize=2)
def case_of(name):
    """(case, reference model, token ids, the reference's logits)."""
    case = next(c for c in CASES if c.name == name)
    model = reference.build(case)
    ids = reference.tokens(case)
    return case, model, ids, reference.logits(model, ids)


@pytest.fixture(params=[c.name for c in CASES])
def row(request):
    ERRORS.clear()
    found = case_of(request.param)
    yield found
    if ERRORS:
        case = found[0]
        against, recurrent = reference.of(case), RECURRENT.get(case.name, False)
        proven.note("text", case.model_type, case.variant, max(ERRORS), against, recurrent)


@pytest.fixture
def loaded(row, tmp_path):
    _, model, ids, expected = row
    ours = load_model(reference.save(model, tmp_path / "model"))
    RECURRENT[row[0].name] = proven.is_recurrent(ours.make_cache())
    return ours, ids, expected


def run(model, ids, cache=None):
    return np.array(model(mx.array(ids), cache=cache))


def assert_close(found, expected, bound=BOUND):
    spread = expected.std()
    assert np.isfinite(found).all()
    ERRORS.append(np.abs(found - expected).max() / spread)
    assert np.abs(found - expected).max() <= bound * spread
    # Greedy tokens are the same but where the reference itself has a tie within the bound.
    top = np.sort(expected, axis=-1)
    clear = top[..., -1] - top[..., -2] > 2 * bound * spread
    assert (found.argmax(-1) == expected.argmax(-1))[clear].all()


def test_the_whole_prompt_at_once(loaded):
    model, ids, expected = loaded
    assert_close(run(model, ids), expected)


def test_chunks_and_single_tokens(row, loaded):
    model, ids, expected = loaded
    for sizes in (CHUNKS, (1,) * ids.shape[1]):
        cache, start, pieces = model.make_cache(), 0, []
        if row[0].by_length:
            cache.expected = ids.shape[1]  # what a generation loop says of a prompt in chunks
        for size in sizes:
            pieces.append(run(model, ids[:, start : start + size], cache))
            start += size
        assert cache.offset == ids.shape[1]
        assert_close(np.concatenate(pieces, axis=1), expected)


def test_a_left_padded_batch_equals_single_runs(row, loaded):
    model, ids, _ = loaded
    pads, length = [0, 4], ids.shape[1]
    padded = np.stack([ids[0], np.concatenate([np.zeros(4, np.int32), ids[1, :-4]])])
    single = [reference.logits(row[1], ids[:1]), reference.logits(row[1], ids[1:, :-4])]
    if row[0].by_length:
        pytest.skip("the rows of one batch are as long as the longest to a rope that goes by length")
    for prefill in (length, 20):
        cache = model.make_cache(left_padding=pads)
        pieces = [run(model, padded[:, :prefill], cache)]
        pieces += [run(model, padded[:, i : i + 1], cache) for i in range(prefill, length)]
        found = np.concatenate(pieces, axis=1)
        for i, pad in enumerate(pads):
            assert_close(found[i, pad:], single[i][0])


def test_both_spellings_of_names_and_configs_are_one(row, loaded, tmp_path):
    _, reference_model, ids, expected = row
    fused = load_model(reference.save_fused(reference_model, tmp_path / "model", tmp_path / "fused"))
    assert_close(run(fused, ids), expected)
    old = load_model(reference.save_old_config(tmp_path / "model", tmp_path / "old"))
    assert_close(run(old, ids), expected)
