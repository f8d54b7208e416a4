"""A tokenizer of bytes with special tokens, and a model that answers by a script to the whole text that it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlxlm.cache import State
from mlxlm.cache.base import LayerCache
from mlxlm.text import tokenizer as text_tokenizer
from mlxlm.text.settings import Settings, TokenSpec

CHATML = (
    "{%- if tools %}{{ '<|im_start|>system\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endif %}{# <tool_call> {{ tool_call.name }} #}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') }}"
    "{%- for c in m.tool_calls or [] %}{{ '\\n<tool_call>\\n' + c.function | tojson + '\\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING = CHATML.replace("{{ '<|im_start|>assistant\\n' }}", (
    "{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% else %}{{ '<think>\\n' }}{% endif %}"))
OPENED = r"(?:(<think>\n)(?:\n</think>\n\n)?)?"
"""What a template may write behind the marker."""
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>")
HARMONY = (
    "{# tools #}"
    "{%- for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + (m.content or '') + '<|end|>' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


def make_tokenizer(template: str | None = CHATML, special: Sequence[str] = CHATML_TOKENS,
                   ends: Sequence[str] = ("<|im_end|>",)) -> text_tokenizer.Tokenizer:
    """A tokenizer of bytes, without merges; the special tokens come first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made = text_tokenizer.Tokenizer(backend, Settings(named={"eos_token": TokenSpec(ends[0], True)},
                                                      chat_template=template))
    made.eos_token_ids = {made.token_to_id(end) for end in ends}
    return made


class Ledger(LayerCache):
    """A layer's cache that remembers the ids themselves; ``trims`` says whether it can forget the last of them."""

    def __init__(self, trims: bool = True):
        self.ids: list[int] = []
        self.trims = trims

    def checkpoint(self, ahead=None):
        return None if self.trims else mx.array(self.ids)

    def rewind(self, checkpoint, n):
        self.ids = self.ids[:len(self.ids) - n] if checkpoint is None else checkpoint.tolist()

    @property
    def offset(self) -> int:
        return len(self.ids)

    def can_trim(self, n: int) -> bool:
        return n == 0 or (self.trims and n <= len(self.ids))

    def trim(self, n: int) -> int:
        self.ids = self.ids[:len(self.ids) - n]
        return n

    def copy(self) -> Ledger:
        new = Ledger(self.trims)
        new.ids = list(self.ids)
        return new


class Actor(nn.Module):
    """Answers by the text that the model is given: ``script(prompt text) -> answer``, as text or ids.

    What it has read so far is the prompt up to the last ``marker``, and what it has answered after it. It counts the
    tokens that it was made to read.
    """

    def __init__(self, tokenizer, script: Callable[[str], str | list[int]] | Sequence[str], *, trims: bool = True,
                 marker: str = "<|im_start|>assistant\n", model_type: str = "actor", context: int | None = None):
        super().__init__()
        self.tokenizer, self.marker, self.trims = tokenizer, marker, trims
        self.nested = marker != "<|im_start|>assistant\n"
        self.script = script if callable(script) else _by_turn(list(script), marker)
        self.model_type = model_type
        self.config = {"vocab_size": len(tokenizer), "model_type": model_type,
                       **({"max_position_embeddings": context} if context else {})}
        self.read: list[int] = []
        self.before_step: Callable[[], Any] = lambda: None
        self.layers = [None]

    def make_cache(self, max_kv_size=None):
        return State([Ledger(self.trims)])

    def __call__(self, tokens, cache):
        self.before_step()
        ids = np.array(tokens)[0].tolist()
        self.read += ids
        cache[0].ids = cache[0].ids + ids
        cache.offset = cache[0].offset
        target = self._next(cache[0].ids)
        logits = mx.where(mx.arange(self.config["vocab_size"]) == target, 9.0, 0.0)
        return mx.broadcast_to(logits, (1, len(ids), logits.shape[0]))

    def _next(self, ids: list[int]) -> int:
        """The next token of the answer that what follows a marker is a beginning of, EOS at its end; of several markers
        the last counts, but for answers that hold markers themselves (``nested``)."""
        text = self.tokenizer.decode(ids)
        pattern = re.compile(re.escape(self.marker) + OPENED)
        for found in list(pattern.finditer(text))[::1 if self.nested else -1]:
            for at in sorted({found.end(), found.end(1), found.start() + len(self.marker)}, reverse=True):
                reply = self.script(text[:at])
                reply = reply if isinstance(reply, list) else self._ids(reply)
                said = ids[len(self._ids(text[:at])):]
                if said == reply[:len(said)]:
                    return reply[len(said)] if len(said) < len(reply) else min(self.tokenizer.eos_token_ids)
        return 0

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def _by_turn(replies: list[str], marker: str) -> Callable[[str], str]:
    def reply(prompt: str) -> str:
        return replies[min(prompt.count(marker), len(replies)) - 1]

    return reply
