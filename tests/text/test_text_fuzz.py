"""Broken templates, settings and tokenizer files: an MLXLMError or the right result, never anything else."""

import json
from functools import cache

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import kind
from rendering import CHATS, OPTIONS, ours, theirs
from test_template_golden import TEMPLATES

from mlxlm.errors import MLXLMError
from mlxlm.text.tokenizer import Tokenizer

PIECES = st.sampled_from([
    "{{", "}}", "{%", "%}", "{#", "#}", "-", "|", "trim", "tojson", "[0]", "messages", "loop.last", "none", "~", "'",
    "{% endfor %}", "{% endif %}", "{% else %}", "{% break %}", "{% generation %}", "{% set x = 1 %}", ".content",
    "{{ messages }}", "{{ loop }}", "(", ")", "[", "]", "{", "}", ":", "::-1", " in ", " is ", "not ", " if 1", "*",
    "9", "é",
])
QUIET = dict(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@settings(max_examples=500, **QUIET)
@given(st.sampled_from(sorted(TEMPLATES)), st.sampled_from(sorted(CHATS)), st.sampled_from(OPTIONS),
       st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.one_of(PIECES, st.just(""))), max_size=3))
def test_damaged_templates_render_as_in_transformers_or_fail(name, chat, options, edits):
    template = TEMPLATES[name]
    for place, cut, piece in edits:
        at = int(place * len(template))
        template = template[:at] + piece + template[at + cut:]
    expected = theirs(template, CHATS[chat], options)
    try:
        made = ours(template, CHATS[chat], options)
    except MLXLMError:
        made = None
    if "0x" not in (expected or ""):  # an address, printed
        assert made == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 500) | st.text(max_size=4) | st.sampled_from(["<s>", "the", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["content", "lstrip", "special", "name", "template", "0", "421", "x"]), inner, max_size=3),
    max_leaves=8)
KEYS = st.sampled_from([
    "bos_token", "eos_token", "pad_token", "image_token", "added_tokens_decoder", "additional_special_tokens",
    "extra_special_tokens", "model_specific_special_tokens", "chat_template", "clean_up_tokenization_spaces",
    "tokenizer_class", "add_bos_token", "add_eos_token"])


@settings(max_examples=300, **QUIET)
@given(config=st.dictionaries(KEYS, JSON, max_size=4), legacy=st.dictionaries(KEYS, JSON, max_size=2),
       ours=st.booleans())
def test_any_settings(tmp_path, config, legacy, ours):
    if not (tmp_path / "tokenizer.json").exists():
        kind("gpt2").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}" if ours else json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(legacy))
    try:
        tokenizer = Tokenizer.from_folder(tmp_path, config=config if ours else None)
        ids = tokenizer.encode("the <s> a")
        assert tokenizer.decode(ids) and tokenizer.all_special_ids is not None and tokenizer.eos_token_id is not False
        if tokenizer.has_chat_template:
            tokenizer.apply_chat_template(CHATS["one"])
    except MLXLMError:
        pass


@cache
def as_bytes(name):
    return kind(name).to_str().encode()


@settings(max_examples=200, **QUIET)
@given(name=st.sampled_from(["gpt2", "llama2", "word piece", "unigram"]), place=st.floats(0, 1), cut=st.integers(0, 60),
       put=st.binary(max_size=4) | st.sampled_from([b"[", b"{", b"-1", b"null", b'"', b"\\"]))
def test_damaged_tokenizer_files(tmp_path, name, place, cut, put):
    data = as_bytes(name)
    at = int(place * min(len(data), 3000))
    (tmp_path / "tokenizer.json").write_bytes(data[:at] + put + data[at + cut:])
    try:
        tokenizer = Tokenizer.from_folder(tmp_path)
        ids = tokenizer.encode("Hello, world! 你好 <s>")
        stream = tokenizer.detokenizer()
        assert "".join(map(stream.add_token, ids)) + stream.finalize() == tokenizer.decode(ids)
    except MLXLMError:
        pass
