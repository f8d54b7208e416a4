"""The law of the module, for every format: what is written is read, cuts don't matter, and nothing vanishes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tool_cases import (
    CALLS,
    EXACT,
    MARKERS,
    ODD_TEXT,
    PLAIN,
    account,
    essence,
    streamed,
    tools_for,
    unique_names,
)

from mlxlm.errors import UsageError
from mlxlm.tools import FORMATS, ReasoningProtocol, format, parse
from mlxlm.tools.formats import find

pytestmark = pytest.mark.slow  # left to `make test`: `make check` is for every edit

THINK = ReasoningProtocol("<think>", "</think>", implicit_ends=tuple(o for f in FORMATS for o in find(f).openers))
quick = settings(max_examples=60, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def can_hold(name: str, calls) -> bool:
    """Whether no text in the calls holds markup of a format that has no way to escape it."""
    words = str([call.arguments for call in calls])
    return name in EXACT or not any(marker in words for marker in MARKERS if len(marker) > 2)


@pytest.mark.parametrize("name", FORMATS)
@quick
@given(calls=CALLS, before=PLAIN, after=PLAIN)
def test_what_is_written_is_read(name, calls, before, after):
    calls = unique_names(calls)
    tools = tools_for(calls)
    try:
        text = format(calls, name, tools)
    except UsageError:
        assert not can_hold(name, calls)
        return
    before, after = before + "é.", ".é" + after
    output = parse(before + text + after, name, tools)
    assert not output.rejected and not output.reasoning
    assert [(call.name, call.arguments) for call in output.tool_calls] == [(c.name, c.arguments) for c in calls]
    assert output.content.startswith(before) and output.content.endswith(after)
    assert not output.content[len(before):len(output.content) - len(after)].strip()
    account(output, before + text + after)


@pytest.mark.parametrize("name", EXACT)
@quick
@given(calls=CALLS)
def test_json_needs_no_schema(name, calls):
    output = parse(format(calls, name), name)
    assert [(call.name, call.arguments) for call in output.tool_calls] == [(c.name, c.arguments) for c in calls]


@st.composite
def corrupted(draw):
    """A written text with parts cut out, doubled, or replaced by markers."""
    name = draw(st.sampled_from(FORMATS))
    calls = unique_names(draw(CALLS))
    try:
        text = format(calls, name, tools_for(calls))
    except UsageError:
        text = draw(st.sampled_from(find(name).openers))
    if draw(st.booleans()):
        text = draw(st.sampled_from(["", "<think>", "hm "])) + text + draw(ODD_TEXT) + text
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(st.one_of(st.just(""), ODD_TEXT, st.sampled_from(MARKERS))) + text[end:]
    return name, text, draw(st.sampled_from([None, tools_for(calls)]))


@settings(quick, max_examples=1200)
@given(case=corrupted(), protocol=st.sampled_from([None, THINK]), inside=st.booleans(), data=st.data())
def test_damage_is_never_lost_and_cuts_never_matter(case, protocol, inside, data):
    name, text, tools = case
    whole = parse(text, name, tools, reasoning=protocol, inside=inside)
    account(whole, text)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=4).map(sorted))
    for some in (list(range(1, len(text))), cuts):
        assert essence(streamed(text, some, name, tools, reasoning=protocol, inside=inside)) == essence(whole)


@pytest.mark.parametrize("name", FORMATS)
@settings(quick, max_examples=4)
@given(calls=CALLS)
def test_every_cut_in_two(name, calls):
    calls = unique_names(calls)[:2]
    try:
        text = "so " + format(calls, name, tools_for(calls)) + "\nthen " + find(name).openers[0]
    except UsageError:
        return
    whole = essence(parse(text, name))
    for at in range(len(text)):
        assert essence(streamed(text, [at], name)) == whole


@pytest.mark.parametrize("name", FORMATS)
@settings(quick, max_examples=80)
@given(text=st.lists(st.one_of(st.sampled_from(MARKERS), st.text("ab:{}[]()\"' \n=,", max_size=4)),
                     max_size=14).map("".join))
def test_a_soup_of_markers(name, text):
    output = parse(text, name, reasoning=THINK)
    account(output, text)
    assert essence(streamed(text, list(range(1, len(text))), name, reasoning=THINK)) == essence(output)
