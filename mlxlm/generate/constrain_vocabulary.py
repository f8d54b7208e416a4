"""A tokenizer's vocabulary as bytes, which is how a grammar sees it: any decoder that text comes out of is taken."""

import json
import re
import threading
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import GenerationError
from ..text.stages import BYTES, ByteLevel, PerToken, Spaced, stages

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHOR, _ANCHORS = "a", ("\n", "=", "a")


class Vocabulary:
    """What grammars are matched on: ``matcher_tokenizer`` (an LLTokenizer), ``tokens`` (bytes of each id), the ids that
    end an answer, and whether a space in front of the first token isn't shown (sentencepiece's habit)."""

    def __init__(self, tokenizer: Any, ends: Iterable[int]):
        from llguidance import LLTokenizer, TokenizerWrapper

        self.ends = frozenset(ends)
        unknown = getattr(tokenizer, "unk_token_id", None)
        self.eos = sorted(self.ends - {unknown})
        self.tokens = token_bytes(tokenizer)
        if not self.eos or max(self.eos) >= len(self.tokens):
            raise GenerationError("the tokenizer has no EOS token, so a structured answer couldn't end",
                                  where="response_format", hint='Name one: tokenizer_config={"eos_token": "…"}.')
        added = tokenizer.backend.get_added_tokens_decoder()
        self.special = {i: token.content for i, token in added.items() if token.special or i in self.ends}
        self.special |= {i: tokenizer.convert_ids_to_tokens(i) or "" for i in self.ends if i not in self.special}
        self.drops_space = self._drops_space(tokenizer)
        self.matcher_tokenizer = LLTokenizer(TokenizerWrapper(_Source(self, tokenizer)), eos_token=self.eos)

    def _drops_space(self, tokenizer: Any) -> bool:
        """Whether text begins without the space that its first token has."""
        spaced = (i for i, t in enumerate(self.tokens) if re.fullmatch(rb" [A-Za-z]+", t) and i not in self.special)
        first = next(spaced, None)
        return first is not None and not tokenizer.decode([first]).startswith(" ")


class _Source:
    """The tokenizer as llguidance asks for it: text that a grammar forces comes back in tokens of just these bytes."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Any):
        self._encode, self._bytes = tokenizer.encode, vocabulary.tokens
        self._ids = {data: i for i, data in enumerate(vocabulary.tokens) if data and i not in vocabulary.special}
        self._longest = max(map(len, self._ids), default=0)
        self.eos_token_id, self.bos_token_id = vocabulary.eos[0], None
        self.tokens = list(vocabulary.tokens)
        for index, content in vocabulary.special.items():
            self.tokens[index] = content.encode()
        self.special_token_ids = sorted(vocabulary.special)

    def __call__(self, data: bytes | str) -> list[int]:
        text = data.decode() if isinstance(data, bytes) else data
        data = text.encode()
        # Some tokenizers put a space in front of a text; behind an anchor they don't.
        for anchor in ("", *_ANCHORS):
            ids = self._encode(anchor + text, add_special_tokens=False)
            before = self._encode(anchor, add_special_tokens=False) if anchor else []
            if ids[: len(before)] == before and self._joined(ids[len(before):]) == data:
                return ids[len(before):]
        return self._longest_first(data)

    def _joined(self, ids: list[int]) -> bytes:
        return b"".join(self._bytes[i] for i in ids)

    def _longest_first(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            size = next((n for n in range(self._longest, 0, -1) if data[at: at + n] in self._ids), 0)
            if not size:
                return ids
            ids.append(self._ids[data[at: at + size]])
            at += size
        return ids


_made: WeakKeyDictionary[Any, dict[frozenset[int], Vocabulary]] = WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary_of(tokenizer: Any, ends: Iterable[int]) -> Vocabulary:
    """The vocabulary of a tokenizer; made once (up to a second), for it and the ids that end an answer."""
    ends = frozenset(ends)
    with _lock:
        known = _made.setdefault(tokenizer, {})
        if ends not in known:
            known[ends] = Vocabulary(tokenizer, ends)
        return known[ends]


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes that each id stands for in the middle of a text; none where a token can't be told alone."""
    backend = tokenizer.backend
    vocabulary = tokenizer.get_vocab()
    added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
    size = max([*vocabulary.values(), *added], default=-1) + 1
    spelled: list[str | None] = [None] * size
    for token, index in [*vocabulary.items(), *((content, index) for index, content in added.items())]:
        spelled[index] = token
    state = json.loads(backend.decoder.__getstate__()) if getattr(backend, "decoder", None) is not None else None
    chain = stages(state) if hasattr(backend, "decoder") else None
    if chain is None:
        return [b"" if token is None else _by_decoding(tokenizer, index) for index, token in enumerate(spelled)]
    return [b"" if token is None else _through(chain, token) for token in spelled]


def _through(chain: list[Any], token: str) -> bytes:
    """What a decoder makes of a token that isn't the first."""
    fallback = any(type(stage).__name__ == "ByteFallback" for stage in chain)
    if fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    for stage in chain:
        if isinstance(stage, ByteLevel):
            return bytes(BYTES[c] for c in token) if all(c in BYTES for c in token) else token.encode()
        if isinstance(stage, PerToken):
            token = stage.decoder.decode(["", token])
        elif isinstance(stage, Spaced):
            token = " " + token
        elif suffix := getattr(stage, "suffix", None):
            token = token.replace(suffix, " ")
    return token.encode()


def _by_decoding(tokenizer: Any, index: int) -> bytes:
    """For decoders that can only be called: what the token adds behind another; b"" for a part of a character."""
    anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False)
    before, text = tokenizer.decode(anchor), tokenizer.decode([*anchor, index])
    if "\ufffd" in text or not text.startswith(before):
        return b""
    return text[len(before):].encode()
