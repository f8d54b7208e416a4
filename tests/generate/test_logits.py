"""Logits processors against numpy loops written from the definitions."""
import math

import mlx.core as mx
import numpy as np
import pytest

from mlxlm.errors import GenerationError
from mlxlm.generate.logits import make_logits_processors

VOCAB = 12
TOKENS = [3, 5, 3, 3, 7, 1, 5, 11]


def logits_rows(rows: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, VOCAB)).astype(np.float32) * 2


def run(tokens, logits: np.ndarray, **options) -> np.ndarray:
    out, given = mx.array(logits), mx.array(logits)
    for process in make_logits_processors(**options):
        out = process(mx.array(tokens, mx.int32), out)
    np.testing.assert_array_equal(np.array(given), logits)
    return np.array(out)


def penalized(row, tokens, repetition=1.0, presence=0.0, frequency=0.0):
    row = row.astype(np.float64).copy()
    for token in set(tokens):
        row[token] = row[token] * repetition if row[token] < 0 else row[token] / repetition
        row[token] -= presence + frequency * tokens.count(token)
    return row


@pytest.mark.parametrize("size", [1, 3, 20, None])
@pytest.mark.parametrize("name", ["repetition", "presence", "frequency"])
def test_a_penalty_looks_at_its_window_only(name, size):
    logits = logits_rows()
    options = {f"{name}_penalty": 1.7, f"{name}_context_size": size}
    window = TOKENS[-size:] if size else TOKENS
    expected = penalized(logits[0], window, **{name: 1.7})
    np.testing.assert_allclose(run(TOKENS, logits, **options)[0], expected, rtol=1e-6)


def test_penalties_apply_in_order_with_windows_of_their_own():
    logits = logits_rows()
    ours = run(TOKENS, logits, repetition_penalty=1.3, repetition_context_size=2, presence_penalty=0.5,
               presence_context_size=4, frequency_penalty=-0.25, frequency_context_size=8)
    step = penalized(logits[0], TOKENS[-2:], repetition=1.3)
    step = penalized(step, TOKENS[-4:], presence=0.5)
    np.testing.assert_allclose(ours[0], penalized(step, TOKENS, frequency=-0.25), rtol=1e-6)


def test_rows_of_a_batch_have_windows_of_their_own():
    logits, tokens = logits_rows(2), [[1, 1, 2], [9, 3, 3]]
    ours = run(tokens, logits, frequency_penalty=1.0, repetition_penalty=2.0)
    for row, source, seen in zip(ours, logits, tokens, strict=True):
        np.testing.assert_allclose(row, penalized(source, seen, repetition=2.0, frequency=1.0), rtol=1e-6)


def test_no_tokens_and_no_penalty_change_nothing():
    logits = logits_rows()
    np.testing.assert_array_equal(run([], logits, repetition_penalty=2.0, frequency_penalty=1.0), logits)
    assert make_logits_processors() == []
    assert make_logits_processors({}, repetition_penalty=0, presence_penalty=0.0, frequency_penalty=None) == []


def test_bias_is_added_and_minus_infinity_forbids():
    logits = logits_rows(3)
    ours = run([], logits, logit_bias={2: 1.5, 7: -math.inf, 0: -3})
    expected = logits.copy()
    expected[:, 2] += 1.5
    expected[:, 0] -= 3
    expected[:, 7] = -np.inf
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    penalty = run([7], ours, repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=1.0)
    assert penalty[0, 7] == -np.inf and np.isfinite(np.delete(penalty, 7, axis=1)).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"repetition_penalty": -1}, "repetition_penalty: out of range; found -1"),
    ({"repetition_penalty": "2"}, "repetition_penalty: not a number; found '2'"),
    ({"presence_penalty": float("inf")}, "presence_penalty: not a number; found inf"),
    ({"frequency_penalty": 1, "frequency_context_size": 0}, "frequency_context_size: out of range; found 0"),
    ({"repetition_penalty": 1.1, "repetition_context_size": 2.0}, "repetition_context_size: not a whole number"),
    ({"logit_bias": [1]}, "logit_bias: not a mapping; found [1] (list); expected token ids to numbers"),
    ({"logit_bias": {"a": 1}}, "logit_bias: not a whole number; found 'a'"),
    ({"logit_bias": {1: "x"}}, "logit_bias[1]: not a number; found 'x'"),
    ({"logit_bias": {-1: 1}}, "logit_bias: out of range; found -1"),
])
def test_bad_arguments_are_explained(options, message):
    with pytest.raises(GenerationError) as caught:
        make_logits_processors(**options)
    assert str(caught.value).startswith(message)


def test_a_bias_beyond_the_vocabulary_is_refused():
    with pytest.raises(GenerationError, match=f"token id {VOCAB}; expected ids below {VOCAB}"):
        run([], logits_rows(), logit_bias={VOCAB: 1.0})


def test_places_of_media_outside_of_the_vocabulary_count_for_nothing():
    logits = mx.array([[1.0, -2.0, 3.0]])
    (repetition,) = make_logits_processors(repetition_penalty=2.0)
    found = repetition(mx.array([[-200, 1, 3, 2**31 - 1]]), logits)
    assert found.tolist() == [[1.0, -4.0, 3.0]]
