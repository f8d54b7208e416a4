"""The streaming detokenizer against the Rust decoder over whole lists, on every kind of tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import KINDS, TEXTS, kind
from tokenizers import decoders

from mlxlm.errors import TokenizerError
from mlxlm.text.detokenizer import OpaqueDetokenizer, StreamingDetokenizer, detokenizer_for
from mlxlm.text.stages import CLEAN_UP


def clean(text):
    for old, new in CLEAN_UP:
        text = text.replace(old, new)
    return text


def check(tokenizer, ids, *, skip=(), clean_up=False):
    def decode(some):
        text = tokenizer.decode(some, skip_special_tokens=bool(skip))
        return clean(text) if clean_up else text

    stream = detokenizer_for(tokenizer, skip=skip, clean_up=clean_up)
    assert type(stream) is StreamingDetokenizer
    emitted = []
    for count, token in enumerate(ids, 1):
        emitted.append(stream.add_token(token))
        assert stream.text == "".join(emitted)
        if not clean_up and count <= 12:
            full = decode(ids[:count])
            assert full.startswith(stream.text)
            held = full[len(stream.text):]
            # Byte-level text keeps back an unfinished character alone.
            if type(tokenizer.decoder) is decoders.ByteLevel:
                assert not held.strip("\ufffd")
    emitted.append(stream.finalize())
    assert "".join(emitted) == stream.text == decode(ids)
    assert stream.finalize() == ""


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_random_ids_equal_the_whole_decoding(name, data):
    tokenizer = kind(name)
    size = tokenizer.get_vocab_size()
    byte_tokens = [i for b in range(256) if (i := tokenizer.token_to_id(f"<0x{b:02X}>")) is not None]
    near = st.integers(0, size + 3)
    one = st.one_of(near, st.sampled_from(byte_tokens)) if byte_tokens else near
    ids = data.draw(st.lists(one, max_size=40))
    special = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    check(tokenizer, ids)
    check(tokenizer, ids, skip=special)
    check(tokenizer, ids, clean_up=True)


@pytest.mark.parametrize("name", KINDS)
def test_real_text(name):
    tokenizer = kind(name)
    for text in TEXTS:
        check(tokenizer, tokenizer.encode(text).ids)


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_no_character_is_split(name):
    tokenizer = kind(name)
    text = "a🙂b👩‍👩‍👧ༀ☃é"
    stream = detokenizer_for(tokenizer)
    pieces = [stream.add_token(i) for i in tokenizer.encode(text, add_special_tokens=False).ids]
    pieces.append(stream.finalize())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 1


def test_a_wrong_byte_undoes_its_run_and_nothing_else():
    tokenizer = kind("llama2")
    ids = [tokenizer.token_to_id(t) for t in ("a", "<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", "b")]
    check(tokenizer, ids)
    stream = detokenizer_for(tokenizer)
    assert [stream.add_token(i) for i in ids] == ["a", "", "", "", "", "\ufffd" * 4 + "b"]


@pytest.mark.parametrize("name", ["gpt2", "llama2", "word piece", "unigram"])
def test_long_texts(name):
    tokenizer = kind(name)
    ids = [(7 * i * i + 3 * i) % tokenizer.get_vocab_size() for i in range(100_000)]
    stream = detokenizer_for(tokenizer)
    emitted = [stream.add_token(i) for i in ids]
    assert "".join(emitted) + stream.finalize() == tokenizer.decode(ids, skip_special_tokens=False)


def test_work_for_a_token_does_not_grow():
    """The last tokens of a long text reach the decoder in no larger pieces than the first ones."""
    tokenizer = kind("word piece")
    seen = []

    class Spy:
        decoder = None

        def decode(self, ids, skip_special_tokens=False):
            seen.append(len(ids))
            return tokenizer.decode(ids, skip_special_tokens=False)

        def id_to_token(self, token):
            return tokenizer.id_to_token(token)

    stream = OpaqueDetokenizer(Spy().decode)
    for i in range(2000):
        stream.add_token(5 + i % 200)
    assert max(seen) < 60


@pytest.mark.parametrize("name", ["gpt2", "llama2", "gemma", "unigram", "word piece"])
def test_a_decoder_that_can_only_be_called(name):
    tokenizer = kind(name)
    text = "Hello, world! 你好 🙂 dog's " * 12
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream = OpaqueDetokenizer(lambda some: tokenizer.decode(some, skip_special_tokens=False))
    out = "".join([stream.add_token(i) for i in ids]) + stream.finalize()
    assert out == tokenizer.decode(ids, skip_special_tokens=False)


def test_a_decoder_that_cannot_be_streamed_is_called():
    from tokenizers import decoders

    tokenizer = KINDS["llama2"]()
    tokenizer.decoder = decoders.CTC()
    assert isinstance(detokenizer_for(tokenizer), OpaqueDetokenizer)


def test_after_the_end_and_wrong_ids():
    stream = detokenizer_for(kind("gpt2"))
    for wrong in (-1, 2**40, "x", None):
        with pytest.raises(TokenizerError):
            stream.add_token(wrong)
    stream.add_token(5)
    stream.finalize()
    with pytest.raises(TokenizerError, match="reset"):
        stream.add_token(5)
    stream.reset()
    assert stream.text == "" and stream.add_token(5) == kind("gpt2").decode([5])
