"""What a checkpoint without tokenizer files says about its tokenizer, as plain data for the text floor above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizerParts:
    """A tokenizer in parts: the `tokenizers` backend and what Hugging Face keeps in tokenizer_config.json.

    `add_bos_token` and `add_eos_token` are None where the checkpoint does not say. The backend adds no special
    tokens itself (it has no post-processor): whoever encodes adds them by these two flags.
    `chat_template` is one template, or a dict from name to template that has a "default".
    `extra_eos_ids` are the ids, beside `eos_token`'s, that end a turn (end of turn, end of message).
    """

    backend: Tokenizer
    bos_token: str | None = None
    eos_token: str | None = None
    unk_token: str | None = None
    pad_token: str | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    chat_template: str | dict[str, str] | None = None
    extra_eos_ids: frozenset[int] = frozenset()
