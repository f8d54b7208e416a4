"""Tokenizers built from GGUF metadata, against the rules that the format's kinds are defined by."""

import itertools
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mlxlm.checkpoint.gguf_pretokenizers import WAYS
from mlxlm.checkpoint.gguf_tokenizer import tokenizer_parts
from mlxlm.errors import TokenizerError

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
WORDS = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "ca", "aa", "aaa", "▁▁", "cab", "bca"]


def sentencepiece(**changes):
    """A SentencePiece vocabulary whose scores rank the words at random."""
    tokens = SPECIAL + BYTES + WORDS
    scores = np.zeros(len(tokens), np.float32)
    scores[len(SPECIAL) + 256 :] = -np.random.default_rng(3).permutation(len(WORDS)).astype(np.float32)
    types = np.array([2, 3, 3] + [6] * 256 + [1] * len(WORDS), np.int32)
    return metadata(**{"model": "llama", "tokens": tokens, "scores": scores, "token_type": types, "bos_token_id": 1,
                       "eos_token_id": 2, "unknown_token_id": 0, **changes})


def byte_level(pre="gpt-2", extra=(), types=None, **changes):
    """All bytes, a few merges, and tokens of other kinds at the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "12 3"]
    tokens = alphabet + [m.replace(" ", "") for m in merges] + list(extra)
    kinds = np.array([1] * (len(tokens) - len(extra)) + list(types or [3] * len(extra)), np.int32)
    return metadata(**{"model": "gpt2", "pre": pre, "tokens": tokens, "merges": [m.encode() for m in merges],
                       "token_type": kinds, **changes})


def metadata(**keys):
    keys["tokens"] = [t.encode() if isinstance(t, str) else t for t in keys["tokens"]]
    return {f"tokenizer.ggml.{k}" if not k.startswith("chat") else f"tokenizer.{k}": v for k,
            v in keys.items() if v is not None}


def by_scores(text, tokens, scores):
    """SentencePiece's rule: merge the neighbours that make the best-scored token, the leftmost first, until none do."""
    pieces = list(text)
    while True:
        pairs = [(-scores[tokens[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in tokens]
        if not pairs:
            break
        i = min(pairs)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    out = []
    for piece in pieces:
        out += [tokens[piece]] if piece in tokens else [tokens[f"<0x{b:02X}>"] for b in piece.encode()]
    return out


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_merges_by_score(prefix):
    made = sentencepiece(add_space_prefix=prefix)
    backend = tokenizer_parts(made, "f").backend
    tokens = {t.decode(): i for i, t in enumerate(made["tokenizer.ggml.tokens"])}
    chance = random.Random(0)
    for _ in range(500):
        text = "".join(chance.choice("aabbcc  é日") for _ in range(chance.randint(1, 12)))
        spelled = ("▁" if prefix else "") + text.replace(" ", "▁")
        ids = backend.encode(text, add_special_tokens=False).ids
        assert ids == by_scores(spelled, tokens, made["tokenizer.ggml.scores"])
        assert backend.decode(ids) == text


def test_sentencepiece_finds_special_tokens_and_adds_none():
    parts = tokenizer_parts(sentencepiece(), "f")
    assert parts.backend.encode("<s>ab</s>").tokens == ["<s>", "▁ab", "</s>"]
    assert parts.backend.encode("ab").tokens == ["▁ab"]
    assert (parts.bos_token, parts.eos_token, parts.unk_token, parts.pad_token) == ("<s>", "</s>", "<unk>", None)
    assert (parts.add_bos_token, parts.add_eos_token) == (True, False)


def test_default_ids_of_sentencepiece():
    parts = tokenizer_parts(sentencepiece(bos_token_id=None, eos_token_id=None, unknown_token_id=None), "f")
    assert (parts.bos_token, parts.eos_token, parts.unk_token) == ("<s>", "</s>", "<unk>")


@pytest.mark.parametrize("pre", WAYS)
def test_every_way_keeps_text_whole(pre):
    parts = tokenizer_parts(byte_level(pre), "f")
    texts = ("hello hello123 12345 HELLO'LL don't\n\n x", "Привет, 世界! 日本語 한국어 🙂\r\n\t", "  a  b   ",
             "é ½ ﬁ ٣ ๓")
    for text in texts:
        assert parts.backend.decode(parts.backend.encode(text).ids) == text
    assert parts.add_bos_token is WAYS[pre].add_bos


def words(pre, text):
    return [w for w, _ in WAYS[pre].stages().pre_tokenize_str(text)]


@pytest.mark.parametrize("pre, text, wanted", [
    ("gpt-2", "I'll pay 12345 now", ["I", "'ll", "Ġpay", "Ġ12345", "Ġnow"]),
    ("smollm", "pay 123", ["pay", "Ġ", "1", "2", "3"]),
    ("llama-bpe", "I'LL pay 12345", ["I", "'LL", "Ġpay", "Ġ", "123", "45"]),
    ("qwen2", "a12 (b)", ["a", "1", "2", "Ġ(", "b", ")"]),
    ("gpt-4o", "camelCase don'T", ["camel", "Case", "Ġdon'T"]),
    ("tekken", "camelCase don't", ["camel", "Case", "Ġdon", "'t"]),
    ("deepseek-v3", "a 1234 日本", ["a", "Ġ", "123", "4", "Ġ", "æĹ¥æľ¬"]),
    ("glm4", "x1234", ["x", "123", "4"]),
    ("falcon", "1234567, ok", ["123", "456", "7", ",", "Ġok"]),
])
def test_ways_split_as_their_models_do(pre, text, wanted):
    assert words(pre, text) == wanted


def test_byte_level_bpe_is_the_merges_in_order():
    made = byte_level()
    ids = {t.decode(): i for i, t in enumerate(made["tokenizer.ggml.tokens"])}
    plain = Tokenizer(models.BPE(ids, [tuple(m.decode().split()) for m in made["tokenizer.ggml.merges"]]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = tokenizer_parts(made, "f").backend
    for text in ("hello hello", "shell 123", "é hell"):
        assert backend.encode(text).ids == plain.encode(text).ids
    assert backend.encode(" hello").tokens == ["Ġhello"]


def test_a_word_of_the_vocabulary_stays_whole_where_merges_are_ignored():
    whole = byte_level("llama-bpe", extra=["zz"], types=[1])
    assert tokenizer_parts(whole, "f").backend.encode("zz").tokens == ["zz"]
    assert tokenizer_parts({**whole, "tokenizer.ggml.pre": "qwen2"}, "f").backend.encode("zz").tokens == ["z", "z"]


def test_control_and_user_defined_tokens():
    parts = tokenizer_parts(byte_level(extra=["<|x|>", "@@", "<unused>"], types=[3, 4, 5]), "f")
    encoded = parts.backend.encode("a<|x|>@@b<unused>")
    assert encoded.tokens[:4] == ["a", "<|x|>", "@@", "b"] and "<unused>" not in encoded.tokens
    assert parts.backend.decode(encoded.ids, skip_special_tokens=True) == "a@@b<unused>"


@pytest.mark.parametrize("extra, keys, ends", [
    (["<|end|>", "<eos>"], {}, {"<|end|>"}),
    (["<|end|>", "<|return|>", "<|call|>", "<eos>"], {}, {"<|return|>", "<|call|>"}),  # gpt-oss: <|end|> ends a message
    (["<|im_end|>", "<eos>"], {}, {"<|im_end|>"}),
    (["<|user|>", "<|observation|>", "<eos>"], {"eot_token_id": -3}, {"<|user|>", "<|observation|>"}),
    (["<|user|>", "xx", "<eos>"], {"eom_token_id": -2}, {"xx"}),
])
def test_tokens_that_end_a_turn(extra, keys, ends):
    made = byte_level(extra=extra)
    count = len(made["tokenizer.ggml.tokens"])
    made |= {"tokenizer.ggml.eos_token_id": count - 1, **{f"tokenizer.ggml.{k}": count + v for k, v in keys.items()}}
    parts = tokenizer_parts(made, "f")
    assert parts.eos_token == "<eos>"
    assert {parts.backend.id_to_token(i) for i in parts.extra_eos_ids} == ends


def test_ends_that_were_typed_as_normal_are_found_in_text():
    parts = tokenizer_parts(byte_level(extra=["<|im_end|>"], types=[1]), "f")
    assert parts.backend.encode("a<|im_end|>").tokens == ["a", "<|im_end|>"]


def test_chat_templates():
    assert tokenizer_parts(byte_level(), "f").chat_template is None
    assert tokenizer_parts(byte_level(chat_template="T"), "f").chat_template == "T"
    named = {**byte_level(chat_template="T"), "tokenizer.chat_template.tool_use": "U"}
    assert tokenizer_parts(named, "f").chat_template == {"default": "T", "tool_use": "U"}


def test_nfc_where_the_model_has_it():
    for pre, same in (("qwen2", True), ("llama-bpe", False)):
        backend = tokenizer_parts(byte_level(pre), "f").backend
        assert (backend.encode("e\u0301").ids == backend.encode("é").ids) is same


@pytest.mark.parametrize("made, message", [
    (byte_level("no-such"), "no-such"),
    (byte_level(merges=None), "merges"),
    (byte_level(merges=[b"onlyone"]), "pairs"),
    (byte_level(merges=[b"q notthere"]), "notthere|no tokenizer"),
    (byte_level(model="bert"), "'bert'"),
    (byte_level(model=None), "None"),
    (byte_level(tokens=[b"a", b"a"], merges=[], token_type=None), "twice"),
    (byte_level(tokens=[b"\xff\xfe"], merges=[], token_type=None), "UTF-8"),
    (byte_level(tokens=[], merges=[]), "tokens"),
    (byte_level(eos_token_id=10**6), "eos_token_id"),
    (byte_level(eos_token_id="2"), "eos_token_id"),
    (byte_level(token_type=np.ones(3, np.int32)), "token_type"),
    (byte_level(add_bos_token="yes"), "add_bos_token"),
    (byte_level(chat_template=7), "chat template"),
    (sentencepiece(scores=None), "scores"),
    (sentencepiece(scores=np.ones(2, np.float32)), "scores"),
])
def test_metadata_that_makes_no_tokenizer_is_explained(made, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer_parts(made, "f.gguf")
