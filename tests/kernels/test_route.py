"""The choice of experts against float64: who is picked, and what each counts."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, ROUNDING, numbers, random, softmax

from mlxlm.kernels import ops, plain


def chosen(logits, bias, k, when, groups, keep, best, normalise, scale):
    """What each expert counts (tokens, experts), 0 for those that aren't picked; the distance from a tie."""
    scores = softmax(logits) if when == "before" else logits
    choice = scores + bias
    if groups > 1:
        each = choice.reshape(len(choice), groups, -1)
        worth = np.sort(each, -1)[..., -best:].sum(-1)
        order = np.argsort(-worth, -1)
        losers = np.ones(worth.shape, bool)
        np.put_along_axis(losers, order[:, :keep], False, -1)
        choice = np.where(losers[..., None], -np.inf, each).reshape(choice.shape)
    picks = np.argsort(-choice, -1)[:, :k]
    weights = np.take_along_axis(scores, picks, -1)
    if when == "after":
        weights = softmax(weights)
    elif normalise:
        weights = weights / weights.sum(-1, keepdims=True)
    out = np.zeros(choice.shape)
    np.put_along_axis(out, picks, weights * scale, -1)
    return out


def spread(picks, weights, experts):
    out = np.zeros((len(picks), experts))
    np.put_along_axis(out, np.array(picks).astype(int), numbers(weights), -1)
    return out


@given(
    tokens=st.integers(1, 40), groups=st.sampled_from((1, 1, 2, 4)), each=st.integers(2, 20), k=st.integers(1, 8),
    when=st.sampled_from((None, "before", "after")), best=st.integers(1, 3), biased=st.booleans(),
    normalise=st.booleans(), scale=st.sampled_from((1.0, 2.5)), dtype=st.sampled_from(list(DTYPES.values())),
)
@pytest.mark.parametrize("run", [ops.route, plain.route])
def test_the_best_are_chosen(run, tokens, groups, each, k, when, best, biased, normalise, scale, dtype):
    rng = np.random.default_rng(tokens)
    experts, keep = groups * each, max(1, groups // 2)
    k = min(k, keep * each)
    # Steps that every type holds, none alike in a row: no ties but those of sums, which a small bias breaks.
    logits = mx.array(np.array([rng.permutation(experts) for _ in range(tokens)], np.float32) / 16).astype(dtype)
    if when is None:
        logits = logits + mx.array(1 / 16, dtype)
    if dtype != mx.float32 and (groups > 1 or when == "before"):
        logits = logits.astype(mx.float32)  # half a type's softmax has ties of its own
    bias = mx.array((rng.random(experts) / 64).astype(np.float32)) if biased or groups > 1 else None
    picks, weights = run(logits, bias, k=k, softmax=when, groups=groups, keep_groups=keep, group_best=best,
                         normalise=normalise, scale=scale)
    assert picks.shape == weights.shape == (tokens, k) and weights.dtype == logits.dtype
    assert all(len(set(row)) == k for row in np.array(picks).tolist())
    want = chosen(numbers(logits), 0 if bias is None else numbers(bias), k, when, groups, keep, best, normalise, scale)
    tolerance = 4 * ROUNDING[logits.dtype]
    np.testing.assert_allclose(spread(picks, weights, experts), want, rtol=tolerance, atol=1e-6)


def test_leading_axes_and_strides():
    logits = random(np.random.default_rng(0), (16, 3, 2)).transpose(2, 1, 0)
    picks, weights = ops.route(logits, k=4, softmax="before")
    flat = ops.route(mx.contiguous(logits).reshape(6, 16), k=4, softmax="before")
    assert picks.tolist() == flat[0].reshape(2, 3, 4).tolist() and weights.tolist() == flat[1].reshape(2, 3, 4).tolist()


def test_what_is_not_a_number():
    logits = mx.zeros((3, 8))
    logits[0, 2], logits[1, 3], logits[2, 1] = mx.nan, mx.inf, -mx.inf
    picks, weights = ops.route(logits, k=3, softmax="after")
    rows = [set(row) for row in np.array(picks).tolist()]
    assert 2 in rows[0] and np.isnan(numbers(weights)[0]).all()
    assert 3 in rows[1] and 1 not in rows[2]
    assert [len(row) for row in rows] == [3, 3, 3]


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError):
        mx.eval(ops.route(mx.zeros((2, 4)), k=5))


@pytest.mark.parametrize("when", [None, "before", "after"])
def test_gradients_are_the_plain_ones(when):
    rng = np.random.default_rng(0)
    logits, bias, share = mx.abs(random(rng, (5, 12))), random(rng, (12,), scale=0.1), random(rng, (12,))

    def loss(route):
        def f(logits, bias):
            picks, weights = route(logits, bias, k=3, softmax=when, scale=1.5)
            return (weights**2 * share[picks]).sum()
        return f

    got, want = (mx.grad(loss(route), (0, 1))(logits, bias) for route in (ops.route, plain.route))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=1e-4, atol=1e-6)
