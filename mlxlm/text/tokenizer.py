"""Tokenizer: the Rust tokenizer of a checkpoint, its special tokens and chat template, without transformers' import.

Which tokens stand at the ends of a text is what transformers 5 decides: a tokenizer.json's post-processor alone;
`add_bos_token` counts only from the caller, or where there is no tokenizer.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxlm.errors import TemplateError, TokenizerError
from mlxlm.text import backends
from mlxlm.text.detokenizer import StreamingDetokenizer, detokenizer_for
from mlxlm.text.settings import STANDARD, Settings, TokenSpec, in_order, named_templates, read_settings, token_spec
from mlxlm.text.stages import CLEAN_UP

if TYPE_CHECKING:
    from mlxlm.checkpoint.parts import TokenizerParts


_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to token ids and back, and messages to prompts.

    `eos_token_ids` is a set that may be changed: the ids that end a generation. Token attributes (`bos_token`,
    `eos_token`, `unk_token`, `pad_token`, `sep_token`, `cls_token`, `mask_token`, each with `_id`) are None where
    the checkpoint names none. `backend` is the `tokenizers.Tokenizer` underneath.
    """

    def __init__(self, backend: Any, settings: Settings, *, extra_eos_ids: Iterable[int] = (),
                 name: str = "tokenizer"):
        self.backend, self.name = backend, name
        self.configuration: Any = None  # the ModelConfiguration, where `load` made this tokenizer
        self.special_tokens_map = {key: spec.content for key, spec in in_order(settings.named).items()}
        self._extra_special = [spec.content for spec in settings.extra]
        self.chat_template: str | dict[str, str] | None = settings.chat_template
        self._template_files = settings.template_files
        self.tool_parser_type = settings.config.get("tool_parser_type")
        model = getattr(backend, "model", None)
        self._clean_up = settings.clean_up_spaces and model is not None and type(model).__name__ != "BPE"
        self.eos_token_ids: set[int] = set(extra_eos_ids)
        if (eos := self.eos_token_id) is not None:
            self.eos_token_ids.add(eos)

    @classmethod
    def from_folder(cls, folder: str | Path, *, config: dict[str, Any] | None = None,
                    override: str | None = None) -> Tokenizer:
        """The tokenizer of a checkpoint folder.

        `config` stands above tokenizer_config.json (`{"eos_token": "<|im_end|>", "add_bos_token": True}`).
        `override` names a transformers class to use instead of what the folder says; it, and a folder without
        tokenizer.json, need transformers. Code of a checkpoint is never run. Raises TokenizerError.
        """
        folder = Path(folder)
        path = folder / backends.TOKENIZER
        settings = read_settings(folder, config)
        if override is not None or not path.exists():
            if override is None and not backends.has_other_format(folder):
                raise TokenizerError(f"no {backends.TOKENIZER}, and no other tokenizer file", where=folder)
            return cls._from_transformers(folder, override, config, settings)
        backend = backends.open_backend(path)
        backends.class_defaults(backend, settings)
        backends.add_tokens(backend, settings)
        tokenizer = cls(backend, settings, name=str(folder))
        ends = {key: (config or {}).get(key) for key in ("add_bos_token", "add_eos_token")}
        if any(value is not None for value in ends.values()):
            tokenizer._set_ends(bool(ends["add_bos_token"]), bool(ends["add_eos_token"]))
        return tokenizer

    @classmethod
    def from_parts(cls, parts: TokenizerParts, *, config: dict[str, Any] | None = None) -> Tokenizer:
        """The tokenizer that a GGUF's metadata describes; `config` stands above it, as in `from_folder`.

        Where neither says, BOS is added for sentencepiece-like vocabularies (BPE with byte fallback) alone, as
        llama.cpp does.
        """
        config = config or {}
        standard = {key: config.get(key, getattr(parts, key, None)) for key in STANDARD}
        settings = Settings(named={key: token_spec(token, "tokenizer_config", key, special=True)
                                   for key, token in standard.items() if token})
        template = config.get("chat_template", parts.chat_template)
        templates = named_templates(template, "the GGUF's chat template")
        settings.template_files = dict.fromkeys(templates, "tokenizer.chat_template")
        settings.chat_template = templates.get("default") if set(templates) <= {"default"} else templates
        tokenizer = cls(parts.backend, settings, extra_eos_ids=parts.extra_eos_ids, name="GGUF")
        add_bos = config.get("add_bos_token", parts.add_bos_token)
        if add_bos is None:
            add_bos = bool(getattr(parts.backend.model, "byte_fallback", False))
        tokenizer._set_ends(bool(add_bos), bool(config.get("add_eos_token", parts.add_eos_token)))
        return tokenizer

    @classmethod
    def _from_transformers(cls, folder: Path, override: str | None, config: dict[str, Any] | None,
                           settings: Settings) -> Tokenizer:
        slow = backends.open_with_transformers(folder, override, config)
        settings.named = {key: TokenSpec(str(token), True) for key, token in slow.special_tokens_map.items()}
        settings.extra = [TokenSpec(str(token), True) for token in slow.extra_special_tokens]
        settings.clean_up_spaces = bool(slow.clean_up_tokenization_spaces)
        backend = getattr(slow, "backend_tokenizer", None)
        if backend is None:
            return cls(backends.CalledBackend(slow), settings, name=type(slow).__name__)
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, settings, name=type(slow).__name__)

    def _set_ends(self, bos: bool, eos: bool) -> None:
        backends.set_ends(self.backend, self.bos_token if bos else None, self.eos_token if eos else None)

    # Text and ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with the special tokens at its ends that the checkpoint asks for, unless told not to.

        Raises TokenizerError for what isn't text, and for text with half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise TokenizerError("only text can be encoded", found=type(text).__name__)
        if (half := _SURROGATE.search(text)) is not None:
            raise TokenizerError(f"the text has half of a surrogate pair at character {half.start()}",
                                 found=f"{half[0]!a}", expected="Unicode text")
        with backends.explained("the text can't be encoded", self.name):
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """Like `encode`, but without a second BOS where the text begins with it (a rendered chat template)."""
        bos = self.bos_token
        return self.encode(text, add_special_tokens=not (bos and text.startswith(bos)))

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids. An id that no token has adds nothing, as in transformers; one below 0 is an error."""
        with backends.explained("not token ids", self.name):
            listed = [ids] if isinstance(ids, int) else [int(token) for token in ids]
            text = self.backend.decode(listed, skip_special_tokens=skip_special_tokens)
        if self._clean_up:
            for old, new in CLEAN_UP:
                text = text.replace(old, new)
        return text

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def detokenizer(self, skip_special_tokens: bool = False) -> StreamingDetokenizer:
        """A fresh streaming detokenizer; its text equals `decode` with the same option."""
        skip = ()
        if skip_special_tokens:
            added = self.backend.get_added_tokens_decoder()
            skip = [index for index, token in added.items() if token.special]
        return detokenizer_for(self.backend, skip=skip, clean_up=self._clean_up,
                               decode=lambda ids: self.decode(ids, skip_special_tokens))

    # The vocabulary

    def __len__(self) -> int:
        """The number of tokens, with the added ones."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @property
    def vocab_size(self) -> int:
        """The number of tokens, without the added ones."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        return self.backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        added = sorted(self.backend.get_added_tokens_decoder().items())
        return {token.content: index for index, token in added}

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None where the vocabulary doesn't have it."""
        return self.backend.token_to_id(token)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or the ids of several; the unknown token's id (or None) where there is none."""
        if isinstance(tokens, str):
            found = self.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> Any:
        """The token of an id (None where there is none), or the tokens of several."""
        if isinstance(ids, int):
            with backends.explained("not a token id"):
                return self.backend.id_to_token(ids)
        skip = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.convert_ids_to_tokens(int(index)) for index in ids if index not in skip]

    # Special tokens

    def __getattr__(self, key: str) -> Any:
        base = key.removesuffix("_id")
        named = self.__dict__.get("special_tokens_map", {})
        if base in STANDARD or base in named:
            token = named.get(base)
            return self.token_to_id(token) if token is not None and key != base else token
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")

    @property
    def all_special_tokens(self) -> list[str]:
        """The named special tokens and the extra ones, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra_special]))

    @property
    def all_special_ids(self) -> list[int]:
        found = (self.token_to_id(token) for token in self.all_special_tokens)
        return [index for index in found if index is not None]

    def add_eos_token(self, token: str | int) -> None:
        """Makes one more token, given as text or id, end a generation. Raises TokenizerError if there is none."""
        found = int(token) if str(token).isdecimal() else self.token_to_id(str(token))
        if found is None or found >= max(len(self), self._highest + 1):
            raise TokenizerError("the vocabulary has no such token", where="eos_token", found=repr(token))
        self.eos_token_ids.add(found)

    @cached_property
    def _highest(self) -> int:
        return max(self.get_vocab().values(), default=-1)

    # Chat

    @property
    def has_chat_template(self) -> bool:
        return self.chat_template is not None

    def set_template(self, template: str, where: str) -> None:
        """Makes this the chat template; ``where`` is the file that errors name."""
        self.chat_template, self._template_files = template, {"default": where}

    @property
    def template_sources(self) -> dict[str, str]:
        """The file that each chat template is from, by the template's name."""
        return dict(self._template_files)

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The template to use: the one given (its text, or a name), else "tool_use" with tools, else "default"."""
        own = self.chat_template
        if isinstance(own, dict):
            name = chat_template or ("tool_use" if tools is not None and "tool_use" in own else "default")
            if name in own:
                return own[name]
            if chat_template is None:
                raise TemplateError("several chat templates, and none is the default", where=self.name,
                                    found=", ".join(sorted(own)), hint="Name one: chat_template=NAME.")
        chosen = chat_template if chat_template is not None else own
        if not isinstance(chosen, str):
            raise TemplateError("this checkpoint has no chat template", where=self.name,
                                hint="Give one with chat_template=, or a plain prompt.")
        return chosen

    def apply_chat_template(self, messages: Sequence[Any], tools: Sequence[Any] | None = None,
                            documents: Sequence[Any] | None = None, add_generation_prompt: bool = True,
                            continue_final_message: bool | str = False, tokenize: bool = True,
                            chat_template: str | None = None, **kwargs: Any) -> Any:
        """The prompt for a list of messages: ids, or with `tokenize=False` text.

        As in transformers, but that the generation prompt is added unless told not to (it is left out with
        `continue_final_message`). The ids have no BOS but what the template writes. Other keyword arguments
        (`enable_thinking`) are the template's variables. Raises TemplateError, UsageError.
        """
        from mlxlm.text.template import render

        template = self.get_chat_template(chat_template, tools)
        rendered = render(template, messages, tools=tools, documents=documents,
                          add_generation_prompt=add_generation_prompt and not continue_final_message,
                          continue_final_message=continue_final_message,
                          variables={**self.special_tokens_map, **kwargs}, where=self._template_file(template))
        return self.encode(rendered.text, add_special_tokens=False) if tokenize else rendered.text

    def _template_file(self, template: str) -> str:
        own = {"default": self.chat_template} if isinstance(self.chat_template, str) else self.chat_template or {}
        name = next((name for name, text in own.items() if text == template), None)
        return self._template_files.get(name or "", "chat template")
