"""Streaming detokenizer: emits a token's text as soon as no later token can change it, at constant cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from mlxlm.errors import TokenizerError
from mlxlm.text.stages import Stage, stages

_WINDOW, _CONTEXT = 48, 12
"""Opaque decoders: the most tokens decoded again for a new one, and those kept when the window moves on."""


class StreamingDetokenizer:
    """Turns token ids into text one by one.

    What `add_token` and `finalize` return, put together, equals `decode` of all the ids. At every moment
    `text` is a beginning of the decoding of the ids so far; what is missing is an unfinished character or,
    with byte fallback, the current run of byte tokens (a wrong byte undoes the characters before it).
    """

    def __init__(self, spell: Callable[[int], str | None], make_stages: Callable[[], list[Stage]]):
        self._spell, self._make_stages = spell, make_stages
        self.reset()

    def reset(self) -> None:
        """Starts a new text."""
        self._stages = self._make_stages()
        self._parts: list[str] = []
        self._finished = False

    def add_token(self, token: int) -> str:
        """Takes the next id; returns the new text, which may be empty. An id without a token adds nothing."""
        if self._finished:
            raise TokenizerError("finalize() has ended this text; call reset() to start another")
        try:
            spelled = self._spell(int(token))
        except (OverflowError, TypeError, ValueError) as error:
            raise TokenizerError("not a token id", found=repr(token)) from error
        return "" if spelled is None else self._shown(self._through([spelled], 0))

    def finalize(self) -> str:
        """Ends the text; returns what was held back."""
        if self._finished:
            return ""
        self._finished = True
        out: list[str] = []
        for at, stage in enumerate(self._stages):
            out += self._through(stage.flush(), at + 1)
        return self._shown(out)

    @property
    def text(self) -> str:
        """All text so far."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def _through(self, tokens: list[str], start: int) -> list[str]:
        for stage in self._stages[start:]:
            if not tokens:
                break
            tokens = [out for token in tokens for out in stage.feed(token)]
        return tokens

    def _shown(self, pieces: list[str]) -> str:
        new = "".join(pieces)
        if new:
            self._parts.append(new)
        return new


class OpaqueDetokenizer(StreamingDetokenizer):
    """For a decoder that can only be called: decodes a short window of ids again for each token.

    Exact as long as the decoder's text for a token depends on no more than the dozen tokens before it.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self.reset()

    def reset(self) -> None:
        self._window: list[int] = []
        self._seen = ""
        self._parts: list[str] = []
        self._finished = False

    def add_token(self, token: int) -> str:
        if self._finished:
            raise TokenizerError("finalize() has ended this text; call reset() to start another")
        self._window.append(token)
        text = self._decode(self._window)
        # A replacement character at the end is a character of which bytes are still to come.
        if text.endswith("\ufffd") or not text.startswith(self._seen):
            return ""
        new, self._seen = text[len(self._seen):], text
        if len(self._window) >= _WINDOW:
            self._window = self._window[-_CONTEXT:]
            self._seen = self._decode(self._window)
        return self._shown([new])

    def finalize(self) -> str:
        if self._finished:
            return ""
        self._finished = True
        text = self._decode(self._window)
        return self._shown([text[len(self._seen):] if text.startswith(self._seen) else ""])


def detokenizer_for(backend: Any, *, skip: Iterable[int] = (), clean_up: bool = False,
                    decode: Callable[[list[int]], str] | None = None) -> StreamingDetokenizer:
    """A fresh detokenizer for a `tokenizers.Tokenizer`, or for anything that has only `decode`.

    `skip`: ids that add nothing (special tokens, if they are to be left out). `clean_up`: transformers'
    clean-up of spaces. `decode`: what to call where the decoder can't be streamed exactly.
    """
    skipped = frozenset(skip)

    def spell(token: int) -> str | None:
        return None if token in skipped else backend.id_to_token(token)

    if hasattr(backend, "decoder"):
        state = None if backend.decoder is None else json.loads(backend.decoder.__getstate__())
        if stages(state, clean_up) is not None:
            return StreamingDetokenizer(spell, lambda: stages(state, clean_up) or [])
    return OpaqueDetokenizer(decode or backend.decode)
