"""Samplers against numpy references written from the definitions, and against the distributions they promise."""
import math
import threading

import mlx.core as mx
import numpy as np
import pytest

from mlxlm.errors import GenerationError
from mlxlm.generate.sample import (
    RandomKeys,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    apply_xtc,
    log_softmax,
    make_sampler,
)


def random_logprobs(rows: int, vocab: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(rows, vocab)) * 3
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def kept(filtered: mx.array, logprobs: np.ndarray) -> list[set[int]]:
    """The tokens that a filter kept; what it kept must have kept its value."""
    out = np.array(filtered)
    for row, source in zip(out, logprobs, strict=True):
        alive = np.isfinite(row)
        np.testing.assert_array_equal(row[alive], source[alive])
    return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in out]


def nucleus(logprobs: np.ndarray, top_p: float) -> set[int]:
    """Definition: the shortest prefix, from the likeliest token down, whose mass reaches top_p."""
    order = np.argsort(-logprobs.astype(np.float64))
    mass = np.cumsum(np.exp(logprobs.astype(np.float64))[order])
    return set(order[:int(np.searchsorted(mass, top_p)) + 1].tolist())


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.97])
def test_top_p_keeps_the_nucleus(top_p):
    for seed, vocab in enumerate((3, 50, 1000)):
        logprobs = random_logprobs(4, vocab, seed)
        assert kept(apply_top_p(mx.array(logprobs), top_p), logprobs) == [nucleus(row, top_p) for row in logprobs]


def test_top_p_keeps_ties_together_and_renormalizes_what_another_filter_left():
    tied = np.log(np.array([[0.5, 0.2, 0.2, 0.1]], np.float32))
    assert kept(apply_top_p(mx.array(tied), 0.6), tied) == [{0, 1, 2}]
    filtered = np.log(np.array([[0.3, 0.2, 0, 0]], np.float32), where=np.array([[True, True, False, False]]),
                      out=np.full((1, 4), -np.inf, np.float32))
    assert kept(apply_top_p(mx.array(filtered), 0.59), filtered) == [{0}]
    assert kept(apply_top_p(mx.array(filtered), 0.61), filtered) == [{0, 1}]


@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 4])
def test_min_p_compares_with_the_likeliest_token(min_p, keep):
    logprobs = random_logprobs(5, 40, 7)
    probs = np.exp(logprobs.astype(np.float64))
    expected = []
    for row in probs:
        enough = set(np.flatnonzero(row >= min_p * row.max() * (1 - 1e-7)).tolist())
        expected.append(enough | set(np.argsort(-row)[:keep].tolist()))
    assert kept(apply_min_p(mx.array(logprobs), min_p, keep), logprobs) == expected


@pytest.mark.parametrize("top_k", [1, 7, 39, 40, 41])
def test_top_k_keeps_exactly_k(top_k):
    logprobs = random_logprobs(5, 40, 8)
    expected = [set(np.argsort(-row)[:top_k].tolist()) for row in logprobs]
    assert kept(apply_top_k(mx.array(logprobs), top_k), logprobs) == expected
    level = np.full((2, 40), -math.log(40), np.float32)
    assert [len(s) for s in kept(apply_top_k(mx.array(level), top_k), level)] == [min(top_k, 40)] * 2


def test_xtc_drops_all_above_the_threshold_but_the_least_likely():
    probs = np.array([[0.4, 0.3, 0.2, 0.06, 0.04], [0.9, 0.04, 0.03, 0.02, 0.01]], np.float32)
    logprobs = np.log(probs)
    always = apply_xtc(mx.array(logprobs), 1.0, 0.1, [], mx.random.key(0))
    assert kept(always, logprobs) == [{2, 3, 4}, {0, 1, 2, 3, 4}]
    spared = apply_xtc(mx.array(logprobs), 1.0, 0.1, [1], mx.random.key(0))
    assert kept(spared, logprobs)[0] == {1, 2, 3, 4}
    nowhere = apply_xtc(mx.array(logprobs), 0.0, 0.1, [], mx.random.key(0))
    assert kept(nowhere, logprobs)[0] == {0, 1, 2, 3, 4}


def test_xtc_happens_as_often_as_asked_and_for_each_row_by_itself():
    logprobs = np.log(np.tile(np.array([[0.5, 0.3, 0.2]], np.float32), (4000, 1)))
    happened = np.array([0 not in row for row in kept(
        apply_xtc(mx.array(logprobs), 0.3, 0.1, [], mx.random.key(1)), logprobs)])
    assert abs(happened.mean() - 0.3) < 0.04  # five standard deviations are 0.036


def counts(sampler, probs: list[float], draws: int = 20000) -> np.ndarray:
    logprobs = mx.log(mx.array([probs] * draws))
    return np.bincount(np.array(sampler(logprobs)), minlength=len(probs))


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    assert observed[expected == 0].sum() == 0
    alive = expected > 0
    share = expected[alive] / expected.sum() * observed.sum()
    return float(((observed[alive] - share) ** 2 / share).sum())


PROBS = [0.35, 0.25, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01]


@pytest.mark.parametrize(("options", "alive"), [
    ({}, 8), ({"top_k": 3}, 3), ({"top_p": 0.7}, 3), ({"min_p": 0.1}, 6), ({"top_p": 0.9, "top_k": 2}, 2),
    ({"top_p": 1.0, "top_k": -1}, 8), ({"min_p": 0.9, "min_tokens_to_keep": 5}, 5), ({"top_p": 0.7, "top_k": 5}, 3),
    ({"top_p": 0.7, "top_k": 100}, 3), ({"min_p": 0.1, "top_k": 7}, 6), ({"min_p": 0.1, "top_k": 4, "top_p": 0.99}, 4),
])
@pytest.mark.parametrize("temp", [0.5, 1.0, 2.0])
def test_sampling_follows_the_distribution(options, alive, temp):
    expected = np.array(PROBS) ** (1 / temp)
    expected[alive:] = 0
    # 99.99 % of chi-square values with 7 degrees of freedom are below 30.
    assert chi_square(counts(make_sampler(temp, seed=11, **options), PROBS), expected) < 30


def test_filters_apply_before_the_temperature():
    # At temperature 4 the first token has a fifth of the mass; the nucleus is that of temperature 1 all the same.
    observed = counts(make_sampler(4.0, top_p=0.3, seed=1), PROBS, 500)
    assert observed[0] == 500


@pytest.mark.parametrize("options", [{"top_p": 0.8, "top_k": 30}, {"top_p": 0.8, "min_p": 0.02, "top_k": 6}])
def test_all_filters_together_leave_what_each_of_them_leaves(options):
    logprobs = random_logprobs(1, 300, 21)
    probs = np.exp(logprobs[0].astype(np.float64))
    left = nucleus(logprobs[0], options["top_p"]) & set(np.argsort(-probs)[:options["top_k"]].tolist())
    left &= set(np.flatnonzero(probs >= options.get("min_p", 0) * probs.max()).tolist())
    expected = np.where(np.isin(np.arange(300), list(left)), probs, 0)
    rows = mx.array(np.tile(logprobs, (20000, 1)))
    observed = np.bincount(np.array(make_sampler(1.0, seed=2, **options)(rows)), minlength=300)
    assert set(np.flatnonzero(observed).tolist()) == left
    assert chi_square(observed, expected) < 75  # 99.99 % are below that with 30 degrees of freedom


def test_temperature_zero_takes_the_likeliest_whatever_the_rest_says():
    sampler = make_sampler(0, top_k=5, min_p=0.1, xtc_probability=1.0, seed=3)
    logprobs = random_logprobs(50, 30, 4)
    np.testing.assert_array_equal(np.array(sampler(mx.array(logprobs))), logprobs.argmax(-1))


def draw(seed, count=40):
    sampler, logprobs = make_sampler(1.0, seed=seed), mx.log(mx.array([PROBS]))
    return [sampler(logprobs).item() for _ in range(count)]


def test_a_seed_repeats_and_no_seed_does_not():
    assert draw(5) == draw(5)
    assert draw(5) != draw(6)
    assert draw(-1) == draw(-1) and draw(2**200) == draw(2**200)
    assert draw(None) != draw(None)


def test_the_global_random_state_is_neither_read_nor_moved():
    mx.random.seed(1)
    expected = mx.random.uniform().item()
    mx.random.seed(1)
    first = draw(9)
    assert mx.random.uniform().item() == expected
    mx.random.seed(2)
    assert draw(9) == first


def test_threads_draw_differently_and_a_sampler_may_move_between_them():
    rows, sampler = [], make_sampler(1.0, seed=5)
    logprobs = mx.log(mx.array([PROBS]))
    mx.eval(logprobs)
    moved = [sampler(logprobs).item() for _ in range(20)]

    def work():
        rows.append(draw(None))
        moved.extend(sampler(logprobs).item() for _ in range(10))

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert rows[0] != rows[1]
    assert moved == draw(5)


def test_keys_differ_and_repeat():
    def several(seed):
        keys = RandomKeys(seed)
        return [tuple(keys().tolist()) for _ in range(100)]

    assert len(set(several(0))) == 100
    assert several(0) == several(0) != several(1)


def test_log_softmax_is_float32_and_exact_for_large_logits():
    logits = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32) * 50 + 1000
    wide = logits.astype(np.float64)
    below = wide - wide.max(-1, keepdims=True)
    expected = below - np.log(np.exp(below).sum(-1, keepdims=True))
    ours = log_softmax(mx.array(logits))
    assert ours.dtype == mx.float32
    np.testing.assert_allclose(np.array(ours), expected, atol=5e-4)
    assert log_softmax(mx.array(logits).astype(mx.bfloat16)).dtype == mx.float32


@pytest.mark.parametrize(("options", "message"), [
    ({"temp": -0.1}, "temp: out of range; found -0.1; expected a number of 0 or more"),
    ({"temp": "hot"}, "temp: not a number; found 'hot'; expected a number of 0 or more"),
    ({"temp": float("nan")}, "temp: not a number; found nan"),
    ({"temp": True}, "temp: not a number"),
    ({"top_p": 1.5}, "top_p: out of range; found 1.5; expected a number from 0 to 1"),
    ({"min_p": -1}, "min_p: out of range"),
    ({"min_tokens_to_keep": 0}, "min_tokens_to_keep: out of range; found 0; expected a whole number of 1 or more"),
    ({"top_k": 2.5}, "top_k: not a whole number; found 2.5"),
    ({"top_k": -2}, "top_k: out of range"),
    ({"xtc_probability": 2}, "xtc_probability: out of range"),
    ({"xtc_threshold": 0.6}, "xtc_threshold: out of range; found 0.6; expected a number from 0 to 0.5"),
    ({"xtc_special_tokens": ["a"]}, "xtc_special_tokens: not a whole number"),
    ({"seed": "1"}, "seed: not a whole number; found '1'"),
])
def test_bad_arguments_are_explained(options, message):
    with pytest.raises(GenerationError) as caught:
        make_sampler(**options)
    assert str(caught.value).startswith(message)
