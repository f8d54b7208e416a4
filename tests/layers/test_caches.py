"""Caches against the plainest account of them: a list of all tokens, of which each query may see some."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.cache import CompositeCache, KVCache, NoCache, RecurrentCache, SlidingCache, State
from mlxlm.decoder import Step


def token(i):
    return mx.full((1, 1, 1, 2), float(i))


def feed(cache, first, length):
    """Tokens first, first + 1, … put in; returns the ids that come back."""
    keys = mx.concatenate([token(first + i) for i in range(length)], axis=2)
    k, v = cache.update_and_fetch(keys, keys)
    assert mx.array_equal(k, v)
    return [int(x) for x in k[0, 0, :, 0]]


def allowed(query, key, window, keep):
    return key <= query and (window is None or key < keep or key > query - (window - keep))


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(0, 6))),
       st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 8))
def test_every_query_sees_just_the_tokens_it_may(kind, lengths, single):
    window, keep = kind or (None, 0)
    if window is not None and keep >= window:
        keep = 0
    cache = KVCache() if window is None else SlidingCache(window, keep)
    state = State([cache])
    for length in [*lengths, *[1] * single]:
        first = state.offset
        mask = Step(length, state).mask(cache)
        ids = feed(cache, first, length)
        state.offset += length
        if mask is None:
            seen = np.ones((length, len(ids)), bool)
        elif isinstance(mask, str):
            seen = np.tri(length, len(ids), len(ids) - length, dtype=bool)
        else:
            seen = np.array(mask[0, 0])
        assert seen.shape == (length, len(ids))
        for row, query in enumerate(range(first, first + length)):
            wanted = [k for k in range(query + 1) if allowed(query, k, window, keep)]
            assert [k for k, s in zip(ids, seen[row], strict=True) if s] == wanted
    assert cache.offset == state.offset == sum(lengths) + single


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 20))
def test_trimming_leaves_what_a_shorter_run_would_have(window, lengths, n):
    cache, plain, total = SlidingCache(window), SlidingCache(window), sum(lengths)
    start = 0
    for length in lengths:
        feed(cache, start, length)
        start += length
    if cache.can_trim(n):
        assert cache.trim(n) == n
        if total > n:
            feed(plain, 0, total - n)
        assert feed(cache, total - n, 1) == feed(plain, total - n, 1)
    else:
        assert cache.trim(n) == 0
        assert feed(cache, total, 1)[-1] == total


@pytest.mark.parametrize("make", [KVCache, lambda: SlidingCache(7)])
def test_a_copy_goes_its_own_way(make):
    cache = make()
    feed(cache, 0, 5)
    other = cache.copy()
    feed(cache, 5, 2)
    assert feed(other, 100, 1)[-2:] == [4, 100]
    assert feed(cache, 7, 1)[-3:] == [5, 6, 7]


def test_a_state_trims_every_layer_or_none():
    attention, recurrent = KVCache(), RecurrentCache(1)
    feed(attention, 0, 4)
    recurrent[0] = mx.zeros((1,))
    recurrent.advance(4)
    state = State([attention, recurrent, NoCache()])
    assert state.offset == 4
    assert not state.can_trim(1)
    assert state.trim(1) == 0
    assert attention.offset == 4
    plain = State([attention, NoCache()])
    assert plain.trim(3) == 3
    assert plain.offset == attention.offset == 1
    assert plain.trim(2) == 0


def test_a_copied_state_keeps_recurrent_arrays_apart():
    cache = CompositeCache(RecurrentCache(1), KVCache())
    cache[0][0] = mx.ones((2,))
    feed(cache[1], 0, 3)
    state = State([cache])
    other = state.copy()
    state[0][0][0] = mx.zeros((2,))
    assert float(other[0][0][0][0]) == 1.0
    assert other.nbytes == state.nbytes > 0


def test_the_mask_of_left_padding():
    cache = KVCache()
    state = State([cache], left_padding=[0, 2])
    mask = np.array(Step(4, state).mask(cache))
    assert mask.shape == (2, 1, 4, 4)
    assert (mask[0, 0] == np.tri(4, dtype=bool)).all()
    assert not mask[1, 0, 2:, :2].any()  # no real query sees padding
    assert mask.any(-1).all()  # and no row is empty, which would be NaN


def test_what_is_expected_of_a_context_never_outlives_a_trim():
    state = State([KVCache()])
    state.expected = 9
    feed(state[0], 0, 6)
    state.offset = 6
    assert Step(1, state).end == 9
    state.trim(4)
    assert Step(1, state).end == 3
