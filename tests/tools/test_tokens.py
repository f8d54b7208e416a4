"""Token ids instead of text, Kimi K3's elements, and Muse's strict schema."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_cases import account, essence, streamed

sys.path.insert(0, str(Path(__file__).parents[1] / "chat"))

from worlds import HARMONY_TOKENS, make_tokenizer

from mlxlm.errors import UsageError
from mlxlm.tools import ToolCall, ToolStream, format, parse, reasoning_protocol
from mlxlm.tools.tokens import mark, unmark

TOKENIZER = make_tokenizer(None, HARMONY_TOKENS, ("<|return|>",))
PLAIN = make_tokenizer(None)
UNITS = [*HARMONY_TOKENS, "<", "\ufdd0", "\ufdd1", "é🎉", " to=functions.f", "final", "analysis", "commentary",
         '{"a": "<|end|>"}']
TEXTS = st.lists(st.one_of(st.sampled_from(UNITS), st.text("ab<|> \n", max_size=4)), max_size=12)


def ids_of(parts) -> list[int]:
    """Control tokens as tokens, the rest letter by letter."""
    units = [unit for part in parts for unit in ([part] if part in HARMONY_TOKENS else part)]
    return [i for unit in units for i in TOKENIZER.encode(unit, add_special_tokens=False)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(parts=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=3).map(sorted))
def test_ids_lose_nothing_wherever_they_are_cut(parts, cuts):
    ids = ids_of(parts)
    whole = parse(ids, "gpt_oss", None, tokenizer=TOKENIZER)
    assert "".join(piece.text for piece in whole.pieces) == TOKENIZER.decode(ids)
    for some in (list(range(1, len(ids))), cuts):
        stream = ToolStream("gpt_oss", tokenizer=TOKENIZER)
        events = [event for a, b in zip([0, *some], [*some, len(ids)], strict=True) for event in stream.feed(ids[a:b])]
        output = stream.finish()
        assert essence(output) == essence(whole)
        assert "".join(event.text for event in [*events, *stream.tail]) == TOKENIZER.decode(ids)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.text("<|>\ufdd0\ufdd1ab", max_size=12))
def test_marks_come_off_again(text):
    assert unmark(mark(text)) == text
    assert not any(token in mark(text) for token in HARMONY_TOKENS)


def test_ids_without_control_tokens_are_text():
    text = format([ToolCall("f", {"a": "é"})], "gpt_oss")
    ids = PLAIN.encode(text, add_special_tokens=False)
    for name in ("gpt_oss", "json"):
        assert essence(parse(ids, name, tokenizer=PLAIN)) == essence(parse(text, name))


def test_ids_need_a_tokenizer_and_a_stream_takes_one_kind():
    with pytest.raises(UsageError, match="for a tokenizer"):
        parse([1, 2], "gpt_oss")
    with pytest.raises(UsageError, match="for a tokenizer"):
        parse(["a"], "gpt_oss", tokenizer=TOKENIZER)  # type: ignore[list-item]
    stream = ToolStream("gpt_oss", tokenizer=TOKENIZER)
    stream.feed("text")
    with pytest.raises(UsageError, match="not both"):
        stream.feed([1])


# Kimi K3

OPEN, CLOSE, SEP = "<|open|>", "<|close|>", "<|sep|>"
FIRST = f'{OPEN}argument key="a" type="string"{SEP}x{CLOSE}argument'
K3 = (f'{OPEN}tools{SEP}{OPEN}call tool="f" index="1"{SEP}{FIRST}{SEP}'
      f'{OPEN}argument key="b &amp; &quot;c&quot;" type="number"{SEP}2{CLOSE}argument{SEP}{CLOSE}call{SEP}'
      f'{OPEN}call tool="g" index="2"{SEP}{CLOSE}call{SEP}{CLOSE}tools{SEP}')


def check(text, calls, content="", thought="", **options):
    output = parse(text, "kimi_k3", **options)
    account(output, text)
    assert [(c.name, c.arguments) for c in output.tool_calls] == calls and not output.rejected
    assert (output.content, output.reasoning) == (content, thought)
    assert essence(streamed(text, list(range(1, len(text))), "kimi_k3", **options)) == essence(output)


def test_kimi_k3s_elements():
    calls = [("f", {"a": "x", 'b & "c"': 2}), ("g", {})]
    check(K3, calls)
    json_block = K3[:K3.index(f"{OPEN}argument")] + (
        f'{OPEN}json type="object"{SEP}{{"a": [1]}}{CLOSE}json{SEP}{CLOSE}call{SEP}{CLOSE}tools{SEP}')
    check(json_block, [("f", {"a": [1]})])
    whole = (f"Hm.{CLOSE}think{SEP}{OPEN}response{SEP}Look:{CLOSE}response{SEP}{K3}{CLOSE}message{SEP}<|end_of_msg|>")
    check(whole, calls, "Look:", "Hm.", inside=True, reasoning=reasoning_protocol("kimi_k3"))
    check(f"{OPEN}think{SEP}Hm. {K3}", calls, "", "Hm. ", reasoning=reasoning_protocol("kimi_k3"))
    check("5 < 6 and <|open the door", [], "5 < 6 and <|open the door")


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda t: t[:60], "incomplete_output"), (lambda t: t.replace('tool="f" ', ""), "missing_tool_name"),
    (lambda t: t.replace(f"{OPEN}argument key", f"{OPEN}other key", 1), "malformed_syntax"),
    (lambda t: t.replace(FIRST, f"{OPEN}json{SEP}[1]{CLOSE}json"), "malformed_syntax"),
])
def test_kimi_k3s_damaged_elements(damage, reason):
    text = damage(K3)
    output = parse(text, "kimi_k3")
    account(output, text)
    assert output.rejected[0].reason == reason
    assert essence(streamed(text, list(range(1, len(text))), "kimi_k3")) == essence(output)


# Muse

STRICT = [{"type": "function", "function": {"name": "f", "parameters": {
    "type": "object", "required": ["city"], "additionalProperties": False,
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "size": {"enum": ["s", "m"]},
                   "near": {"type": "array", "items": {"type": "number"}}}}}}]


def muse(**arguments) -> str:
    inner = "".join(f'<atem:parameter name="{key}">{value}</atem:parameter>' for key, value in arguments.items())
    return f'<atem:function_calls><atem:invoke name="f">{inner}</atem:invoke></atem:function_calls>'


@pytest.mark.parametrize(("text", "detail"), [
    (muse(days=2), "city is missing"), (muse(city="x", other=1), "other is not a parameter"),
    (muse(city="x", days="soon"), "days: string where integer was due"), (muse(city="x", size="l"), "not one of"),
    (muse(city="x", near='[1, "a"]'), r"near\[1\]: string where number"),
])
def test_muses_calls_must_be_what_the_schema_allows(text, detail):
    output = parse(text, "atem", STRICT)
    account(output, text)
    [rejected] = output.rejected
    assert rejected.reason == "invalid_arguments"
    assert re.search(detail, rejected.detail), rejected.detail


def test_muses_good_calls_pass_and_their_text_is_kept():
    text = muse(city=" a\n", days=" 2 ", near="[1, 2.5]")
    assert parse(text, "atem", STRICT).tool_calls[0].arguments == {"city": " a\n", "days": 2, "near": [1, 2.5]}
    assert parse(muse(other=1), "atem").tool_calls[0].arguments == {"other": "1"}


def test_muses_parameter_comes_once_and_its_message_names_the_tool():
    twice = muse(city="x").replace("</atem:invoke>", '<atem:parameter name="city">y</atem:parameter></atem:invoke>')
    assert parse(twice, "atem", STRICT).rejected[0].reason == "malformed_syntax"
    for name, fine in (("f", True), ("g", False), ("user", True)):
        text = f"<|start|>assistant to={name}<|message|>{muse(city='x')}<|eot|>"
        output = parse(text, "atem", STRICT)
        account(output, text)
        assert bool(output.tool_calls) is fine and bool(output.rejected) is not fine
