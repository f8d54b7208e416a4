"""The decoders of the `tokenizers` library as transducers: a token in, the text that is settled out.

Each stage maps a stream of tokens to a stream of tokens exactly as the Rust decoder of that name maps a
whole list; source of the semantics: the `decoders` module of https://github.com/huggingface/tokenizers.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from tokenizers import Regex, decoders

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")


class Stage:
    """Takes tokens one by one; `feed` and `flush` return the tokens that are settled."""

    def feed(self, token: str) -> list[str]:
        raise NotImplementedError

    def flush(self) -> list[str]:
        return []


class PerToken(Stage):
    """A Rust decoder that treats each token alone, but for the first (Metaspace, WordPiece, …)."""

    def __init__(self, decoder: Any):
        self.decoder, self.first = decoder, True

    def feed(self, token: str) -> list[str]:
        # An empty token in front makes the decoder treat this one as a later one.
        context = [token] if self.first else ["", token]
        self.first = False
        return [self.decoder.decode(context)]


class BytePair(Stage):
    """BPEDecoder: the end-of-word suffix is a space, and nothing at the end of the text."""

    def __init__(self, suffix: str):
        self.suffix, self.held = suffix, None

    def feed(self, token: str) -> list[str]:
        settled = [] if self.held is None else [self.held.replace(self.suffix, " ")]
        self.held = token
        if self.suffix not in token:
            settled.append(token)
            self.held = None
        return settled

    def flush(self) -> list[str]:
        held, self.held = self.held, None
        return [] if held is None else [held.replace(self.suffix, "")]


class ByteFallback(Stage):
    """Runs of <0xNN> tokens: text if the whole run is UTF-8, else one replacement character a byte.

    One wrong byte undoes the characters before it in its run, so a run is held back until it ends.
    """

    def __init__(self):
        self.run = bytearray()

    def feed(self, token: str) -> list[str]:
        found = _BYTE_TOKEN.fullmatch(token)
        if found is None:
            return [*self.flush(), token]
        self.run.append(int(found[1], 16))
        return []

    def flush(self) -> list[str]:
        run, self.run = bytes(self.run), bytearray()
        if not run:
            return []
        try:
            return [run.decode("utf-8")]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's map: printable Latin-1 characters stand for themselves, the other bytes for 256, 257, …"""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + index): byte for index, byte in enumerate(rest)}


BYTES = _byte_of_character()


class ByteLevel(Stage):
    """Bytes spelled as characters; holds back an unfinished one. All that it returns counts as one token."""

    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: str) -> list[str]:
        try:
            data = bytes([BYTES[character] for character in token])
        except KeyError:  # a token with a character outside the map (an added token) is plain text
            data = token.encode("utf-8")
        return [self.decoder.decode(data)]

    def flush(self) -> list[str]:
        return [self.decoder.decode(b"", final=True)]


class Spaced(Stage):
    """No decoder at all: tokens with a space between."""

    def __init__(self):
        self.first = True

    def feed(self, token: str) -> list[str]:
        space, self.first = "" if self.first else " ", False
        return [space + token]


class JoinedReplace(Stage):
    """`str.replace` over a text that arrives in pieces: holds back what may be the start of the pattern."""

    def __init__(self, pattern: str, content: str):
        self.pattern, self.content, self.held = pattern, content, ""

    def feed(self, token: str) -> list[str]:
        *done, rest = (self.held + token).split(self.pattern)
        keep = min(len(rest), len(self.pattern) - 1)
        while keep and not self.pattern.startswith(rest[-keep:]):
            keep -= 1
        self.held = rest[len(rest) - keep:]
        return ["".join(part + self.content for part in done) + rest[: len(rest) - keep]]

    def flush(self) -> list[str]:
        held, self.held = self.held, ""
        return [held]


class JoinedLeftStrip(Stage):
    """Strip over a joined text: at most `count` of a character from its start."""

    def __init__(self, character: str, count: int):
        self.character, self.left = character, count

    def feed(self, token: str) -> list[str]:
        cut = 0
        while cut < len(token) and self.left and token[cut] == self.character:
            cut, self.left = cut + 1, self.left - 1
        if cut < len(token):
            self.left = 0
        return [token[cut:]]


CLEAN_UP = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
            (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))
"""What transformers' `clean_up_tokenization_spaces` replaces, in its order."""


def stages(state: dict | None, clean_up: bool = False) -> list[Stage] | None:
    """The stages that equal a decoder of tokenizer.json; None where it can't be streamed exactly.

    `clean_up` adds transformers' clean-up of spaces at the end.
    """
    if state is None:
        made: list[Stage] | None = [Spaced()]
    else:
        made = []
        joined = False
        for part in _flat(state):
            stage, joined = _stage(part, joined)
            if stage is None and part.get("type") != "Fuse":
                return None
            made += [stage] if stage is not None else []
    return made + [JoinedReplace(*pair) for pair in CLEAN_UP] if clean_up else made


def _flat(state: dict) -> list[dict]:
    if state.get("type") != "Sequence":
        return [state]
    return [part for inner in state["decoders"] for part in _flat(inner)]


def _stage(part: dict, joined: bool) -> tuple[Stage | None, bool]:
    """The stage for one decoder, and whether what follows it sees one joined text instead of tokens."""
    kind = part.get("type")
    if kind == "Fuse":
        return None, True
    if kind == "Replace":
        return _replace(part, joined), joined
    if kind == "Strip":
        return _strip(part, joined), joined
    if joined:  # over a text that is one token, these would have to hold back everything
        return None, joined
    if kind == "ByteLevel":
        return ByteLevel(), True
    if kind == "ByteFallback":
        return ByteFallback(), joined
    if kind == "BPEDecoder":
        return (BytePair(part["suffix"]) if part["suffix"] else None), joined
    if kind == "WordPiece":
        return PerToken(decoders.WordPiece(part["prefix"], part["cleanup"])), joined
    if kind == "Metaspace":
        scheme = part.get("prepend_scheme", "always")
        return PerToken(decoders.Metaspace(part["replacement"], scheme, part.get("split", True))), joined
    return None, joined


def _replace(part: dict, joined: bool) -> Stage | None:
    text = part["pattern"].get("String")
    if not joined:
        pattern = text if text is not None else Regex(part["pattern"]["Regex"])
        return PerToken(decoders.Replace(pattern, part["content"]))
    return JoinedReplace(text, part["content"]) if text else None


def _strip(part: dict, joined: bool) -> Stage | None:
    if part["stop"]:
        return None
    if joined:
        return JoinedLeftStrip(part["content"], part["start"])
    return PerToken(decoders.Strip(part["content"], part["start"], 0))
