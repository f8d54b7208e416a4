"""Whatever tokens a model chooses among those allowed, the text that is shown is valid: every tokenizer, any format."""

import json
import re
import unicodedata

import jsonschema
import pytest
import walks
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxlm.generate.constrain import make_constraint
from mlxlm.generate.constrain_vocabulary import token_bytes

KINDS = [k for k in walks.EOS if k not in ("regex replace", "strip each")]
BARE = ("unigram", "metaspace never")  # their vocabularies can't write every character, and have no bytes instead


@pytest.mark.parametrize("kind", walks.EOS)
def test_token_bytes_are_what_decoding_gives(kind):
    tokens = walks.tokenizer(kind)
    spelled = token_bytes(tokens)
    special = set(tokens.backend.get_added_tokens_decoder())
    anchor = tokens.encode("dog", add_special_tokens=False)
    before = tokens.decode(anchor)
    checked = 0
    for index, data in enumerate(spelled):
        text = tokens.decode([*anchor, index])
        if index in special or "\ufffd" in text or kind == "regex replace":
            continue
        assert text == before + data.decode(), (index, data)
        checked += 1
    assert checked > 100 or kind == "regex replace"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(pattern=walks.patterns(), seed=st.integers(0, 2**32))
def test_patterns(kind, pattern, seed):
    if kind in BARE and re.search(r"[🙂你é\\^]", pattern):
        return
    text = walks.walk(walks.tokenizer(kind), re.compile(pattern), seed)
    assert text is not None
    if any(unicodedata.category(c) == "Cn" for c in text):
        return  # a character that is younger than this Python
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2", "gemma"])
@settings(max_examples=80)
@given(schema=walks.schemas(), seed=st.integers(0, 2**32))
def test_schemas(kind, schema, seed):
    text = walks.walk(walks.tokenizer(kind), schema, seed)
    if text is not None:  # blanks between values may make it long
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(options=st.lists(st.sampled_from(["red", "blue", "red or blue", " spaced", "a\nb", 'q"\\', "dog"]), min_size=1),
       seed=st.integers(0, 2**32))
def test_choices(kind, options, seed):
    if kind in BARE:
        options = ["dog", "the dog"]
    assert walks.walk(walks.tokenizer(kind), options, seed) in options


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["hello dog", " hello dog", "dog's"])
def test_a_text_is_an_answer_however_it_is_tokenized(kind, text):
    """The tokenizer's own spelling of an answer, which a model was trained to write, must be allowed."""
    tokens = walks.tokenizer(kind)
    constraint = make_constraint(tokens, [text])
    ids = tokens.encode(text, add_special_tokens=False)
    if tokens.decode(ids) == text:
        assert walks.reaches(constraint, ids)


def test_a_grammar_in_lark():
    grammar = 'start: pair ("," pair)*\npair: NAME "=" INT\nNAME: /[a-z]{1,5}/\nINT: /[0-9]{1,3}/'
    found = [walks.walk(walks.tokenizer("gpt2"), grammar, seed) for seed in range(20)]
    assert all(re.fullmatch(r"[a-z]{1,5}=\d{1,3}(,[a-z]{1,5}=\d{1,3})*", text) for text in found if text is not None)
    assert any("," in text for text in found if text)
