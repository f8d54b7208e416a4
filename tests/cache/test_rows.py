"""Rows of a batch that come and go are what they are alone: the same logits, the same tokens seen, the same memory."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, model

from mlxlm.cache import KVCache, RecurrentCache, SlidingCache, State
from mlxlm.decoder import Step
from mlxlm.errors import GenerationError

BOUND = 5e-5  # of the logits' spread: two float32 runs of one model differ by the order of their sums alone


class Row:
    """One conversation: its tokens, and the logits that a run of its own gives for them."""

    def __init__(self, net, length: int, seed: int, total: int = 70, **cache):
        self.net, self.cache = net, cache
        self.ids = np.random.RandomState(seed).randint(3, net.config.vocab_size, total).astype(np.int32)
        self.at = length
        state = net.make_cache(**cache)
        self.expected = [net(mx.array(self.ids[None, :length]), cache=state)[0, -1]]
        self.expected += [net(mx.array(self.ids[None, i : i + 1]), cache=state)[0, -1] for i in range(length, total)]
        self.first = length
        mx.eval(self.expected)

    def started(self) -> State:
        """A state that has read this row's prompt."""
        state = self.net.make_cache(**self.cache)
        self.net(mx.array(self.ids[None, : self.first]), cache=state)
        return state


def step(net, state: State, rows: list[Row]) -> None:
    """Each row's next token, in one pass; the logits are those of the rows' own runs."""
    logits = net(mx.array([[int(r.ids[r.at])] for r in rows]), cache=state)[:, -1]
    for row, found in zip(rows, logits, strict=True):
        row.at += 1
        expected = np.array(row.expected[row.at - row.first])
        assert np.abs(np.array(found) - expected).max() <= BOUND * expected.std()


def come_and_go(net, **cache) -> None:
    a, b, c = Row(net, 33, 1, **cache), Row(net, 9, 2, **cache), Row(net, 20, 3, **cache)
    state = State.merge([a.started(), b.started()])
    assert (state.rows, state.left_padding) == (2, [0, 24])
    for _ in range(6):
        step(net, state, [a, b])
    state = State.merge([state, c.started()])
    for _ in range(5):
        step(net, state, [a, b, c])
    state = state.filter([2, 1])
    assert (state.offset, state.left_padding) == (25, [0, 5])
    for _ in range(16):
        step(net, state, [c, b])
    for part, row in zip(state.split(), [c, b], strict=True):
        assert part.left_padding is None and part.offset == row.at
        for _ in range(3):
            step(net, part, [row])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_and_go(kind):
    come_and_go(model(kind))


@pytest.mark.parametrize("kind", ["attention", "beside", "latent", "indexed", "sliding", "composite", "shared"])
@pytest.mark.parametrize("size", [8, 24])
def test_rows_keep_their_own_first_tokens(kind, size):
    come_and_go(model(kind), max_kv_size=size)


def ids(cache, tokens: list[list[int]]) -> np.ndarray:
    """Puts columns of tokens (rows, L) into a cache; returns the ids (rows, S) that come back."""
    keys = mx.array(tokens, dtype=mx.float32)[:, None, :, None]
    return np.array(cache.update_and_fetch(keys, keys)[0])[:, 0, :, 0].astype(int)


def feed(state: State, rows: list[list[int]], lengths: list[int], window, keep) -> None:
    """The next tokens of each row, numbered from 1 as they stand in it; each query sees just those that it may."""
    for length in lengths:
        mask = Step(length, state).mask(state[0])
        columns = [list(range(len(r) + 1, len(r) + 1 + length)) for r in rows]
        for row, new in zip(rows, columns, strict=True):
            row.extend(new)
        got = ids(state[0], columns)
        state.offset += length
        if mask is None or isinstance(mask, str):
            tri = np.tri(length, got.shape[1], got.shape[1] - length, dtype=bool)
            mask = np.ones((length, got.shape[1]), bool) if mask is None else tri
        mask = np.broadcast_to(np.array(mask), (len(rows), 1, length, got.shape[1]))
        for r, row in enumerate(rows):
            for i, query in enumerate(row[-length:]):
                seen = sorted(got[r][mask[r, 0, i]])
                far = [k for k in range(1, query + 1) if window is None or k <= keep or k > query - (window - keep)]
                assert seen == far


kinds = st.one_of(st.none(), st.tuples(st.integers(2, 40), st.integers(0, 6)).filter(lambda k: k[1] < k[0]))
lengths = st.lists(st.one_of(st.integers(1, 4), st.integers(1, 300)), min_size=1, max_size=3)


@settings(max_examples=60)
@given(kinds, lengths, lengths, lengths, st.lists(st.integers(1, 260), max_size=2), st.data())
def test_every_query_of_a_row_sees_its_own_tokens(kind, first, second, third, after, data):
    window, keep = kind or (None, 0)

    def fresh():
        return State([KVCache() if window is None else SlidingCache(window, keep)])

    rows: list[list[int]] = [[], [], []]
    states = [fresh() for _ in rows]
    for state, row, plan in zip(states, rows, (first, second, third), strict=True):
        feed(state, [row], plan, window, keep)
    state = State.merge([State.merge(states[:2]), states[2]])
    assert state.offset == max(map(len, rows)) and state.rows == 3
    feed(state, rows, [1, *after], window, keep)
    picked = data.draw(st.permutations(range(3)))[: data.draw(st.integers(1, 3))]
    state, rows = state.filter(picked), [rows[i] for i in picked]
    assert state.offset == max(map(len, rows))
    feed(state, rows, [2, *after], window, keep)
    for part, row in zip(state.split(), rows, strict=True):
        assert part.offset == len(row) and part.left_padding is None
        feed(part, [row], [1, *after], window, keep)


def test_states_without_a_token_may_join():
    fresh, read = State([KVCache(), RecurrentCache(1)]), State([KVCache(), RecurrentCache(1)])
    ids(read[0], [[1, 2, 3]])
    read[1][0] = mx.ones((1, 2))
    read[1].advance(3)
    read.offset = 3
    both = State.merge([fresh, read])
    assert both.left_padding == [3, 0]
    assert ids(both[0], [[1], [4]]).tolist() == [[0, 0, 0, 1], [1, 2, 3, 4]]
    assert both[1][0].tolist() == [[0, 0], [1, 1]]
    assert State.merge([State([KVCache()]), State([KVCache()])]).rows == 2


def test_positions_that_images_moved_stay_with_their_rows():
    one, two = State([KVCache()]), State([KVCache()])
    ids(one[0], [[1, 2]])
    ids(two[0], [[1]])
    one.offset, two.offset, two.shift = 2, 1, mx.array([-5])
    both = State.merge([one, two])
    assert both.shift.tolist() == [0, -5]
    assert both.filter([1]).shift.tolist() == [-5]
    assert Step(1, both).positions.tolist() == [2, 1 - 5]


def test_what_does_not_fit_is_told():
    with pytest.raises(GenerationError, match="different kinds"):
        wide, narrow = State([SlidingCache(9)]), State([SlidingCache(5)])
        for state in (wide, narrow):
            ids(state[0], [[1]])
            state.offset = 1
        State.merge([wide, narrow])
    with pytest.raises(GenerationError, match="one model"):
        State.merge([State([KVCache()]), State([KVCache()] * 2)])
    with pytest.raises(GenerationError, match="no such rows"):
        State([KVCache()]).filter([1])
