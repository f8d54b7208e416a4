"""Stop strings against a search in the whole text, for every way to cut the text into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.errors import UsageError
from mlxlm.text.stops import StopStrings

TEXT = st.text(alphabet="abé<", max_size=24)
STOPS = st.lists(st.text(alphabet="abé<", max_size=5), max_size=4)


def whole(text, strings):
    """The definition: everything before the earliest place where any stop string begins."""
    starts = [text.index(s) for s in strings if s and s in text]
    return (text[: min(starts)], True) if starts else (text, False)


def streamed(pieces, strings):
    stops = StopStrings(strings)
    shown = []
    for piece in pieces:
        emit, stopped = stops.feed(piece)
        shown.append(emit)
        if stopped:
            break
    shown.append(stops.flush())
    return "".join(shown), stops.stopped, stops


@settings(max_examples=400, deadline=None)
@given(TEXT, STOPS, st.lists(st.integers(0, 24), max_size=8))
def test_any_chunking_equals_the_whole(text, strings, cuts):
    edges = sorted({0, len(text), *(c for c in cuts if c <= len(text))})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    shown, stopped, stops = streamed(pieces, strings)
    assert (shown, stopped) == whole(text, strings)
    if stopped:
        assert text[len(shown):].startswith(stops.matched)
    by_character = streamed(list(text), strings)
    assert by_character[:2] == (shown, stopped) and by_character[2].matched == stops.matched


@settings(max_examples=200, deadline=None)
@given(TEXT, STOPS)
def test_only_a_possible_start_is_held_back(text, strings):
    stops = StopStrings(strings)
    shown = ""
    for end, character in enumerate(text, 1):
        emit, stopped = stops.feed(character)
        shown += emit
        if stopped:
            break
        held = text[len(shown):end]
        assert not held or any(len(s) > len(held) and s.startswith(held) for s in strings)


def test_stops_at_once_when_nothing_earlier_is_open():
    stops = StopStrings(["</s>", "<|end|>"])
    assert stops.feed("hi </s") == ("hi ", False)
    assert stops.feed("> more") == ("", True)
    assert stops.matched == "</s>"
    assert stops.feed("again") == ("", True)
    assert stops.flush() == ""


def test_an_earlier_open_string_wins_if_it_completes():
    for tail, expected in (("y", ""), ("z", "xx")):
        stops = StopStrings(["ab", "xxaby"])
        assert stops.feed("xxab") == ("", False)
        assert stops.feed(tail) == (expected, True)


def test_one_string_and_wrong_types():
    assert StopStrings("END").strings == ("END",)
    assert not StopStrings(["", ""])
    with pytest.raises(UsageError, match=r"stop\[1\].*int"):
        StopStrings(["a", 3])


def test_reset():
    stops = StopStrings(["x"])
    assert stops.feed("ax") == ("a", True)
    stops.reset()
    assert stops.feed("b") == ("b", False)
