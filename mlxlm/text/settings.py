"""What stands beside tokenizer.json: special tokens, added tokens and chat templates, read as transformers reads them.

Files: tokenizer_config.json, special_tokens_map.json and added_tokens.json (only where tokenizer_config.json has no
`added_tokens_decoder`), chat_template.jinja, additional_chat_templates/*.jinja, chat_template.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxlm.errors import TokenizerError

STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The named tokens of transformers; a config may name others (`image_token`)."""

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"

_ENDOFTEXT = "<|endoftext|>"
_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    "LlamaTokenizer": _LLAMA,
    "CodeLlamaTokenizer": _LLAMA,
    "GemmaTokenizer": {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
                       "mask_token": "<mask>"},
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), _ENDOFTEXT),
    "GPTNeoXTokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), _ENDOFTEXT),
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), _ENDOFTEXT),
}
"""Tokens that a transformers class has when no file names them; used if the vocabulary has them."""


@dataclass
class TokenSpec:
    """One added token with its matching rules; a None flag is the default of the `tokenizers` library."""

    content: str
    special: bool = False
    flags: dict[str, bool] = field(default_factory=dict)


@dataclass
class Settings:
    """Everything that the side files say, checked.

    `added_is_older`: the added tokens come from added_tokens.json, above which tokenizer.json stands.
    """

    named: dict[str, TokenSpec] = field(default_factory=dict)
    extra: list[TokenSpec] = field(default_factory=list)
    added: dict[int, TokenSpec] = field(default_factory=dict)
    added_is_older: bool = False
    chat_template: str | dict[str, str] | None = None
    template_files: dict[str, str] = field(default_factory=dict)
    clean_up_spaces: bool = False
    tokenizer_class: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def in_order(named: dict[str, TokenSpec]) -> dict[str, TokenSpec]:
    """The named tokens with the standard ones first, in transformers' order."""
    return {key: named[key] for key in dict.fromkeys((*STANDARD, *named)) if key in named}


def read_settings(folder: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Reads the side files of a folder; `overrides` stand above tokenizer_config.json, key by key."""
    where = folder / CONFIG
    config = read_object(where) | (overrides or {})
    settings = Settings(config=config)
    settings.clean_up_spaces = _flag(config, "clean_up_tokenization_spaces", where)
    settings.tokenizer_class = _text(config, "tokenizer_class", where)
    _read_tokens(settings, folder, overrides or {})
    settings.chat_template, settings.template_files = _read_templates(folder, config, overrides or {})
    return settings


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"not JSON: {error}", where=path) from error
    if not isinstance(value, dict):
        raise TokenizerError("not a JSON object", where=path, found=type(value).__name__)
    return value


def read_text(path: Path) -> str | None:
    """The text of a file; None where there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"can't be read: {error}", where=path) from error


def _flag(config: dict, key: str, where: object) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(f"`{key}` has the wrong type", where=where, found=repr(value)[:80],
                             expected="true or false")
    return bool(value)


def _text(config: dict, key: str, where: object) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"`{key}` has the wrong type", where=where, found=repr(value)[:80], expected="text")
    return value


def token_spec(value: Any, where: object, key: str, *, special: bool = False) -> TokenSpec:
    """A token from its JSON: text, or an object with `content` and matching flags."""
    if isinstance(value, str):
        return TokenSpec(value, special)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise TokenizerError(f"`{key}` is not a token", where=where, found=repr(value)[:80],
                             expected='text, or an object with "content"')
    flags = {name: value[name] for name in ("single_word", "lstrip", "rstrip", "normalized") if name in value}
    bad = [name for name, flag in flags.items() if not isinstance(flag, bool)]
    if bad:
        raise TokenizerError(f"`{bad[0]}` of `{key}` has the wrong type", where=where,
                             found=repr(flags[bad[0]])[:80], expected="true or false")
    return TokenSpec(value["content"], bool(value.get("special", special)), flags)


def _read_tokens(settings: Settings, folder: Path, overrides: dict) -> None:
    config, where = settings.config, folder / CONFIG
    _take_tokens(settings, config, where)
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"]
        if not isinstance(entries, dict):
            raise TokenizerError("`added_tokens_decoder` is not an object", where=where,
                                 found=type(entries).__name__)
        for key, value in entries.items():
            if not key.isdecimal() or len(key) > 9:
                raise TokenizerError("`added_tokens_decoder` has a key that is not an id", where=where,
                                     found=repr(key)[:80])
            settings.added[int(key)] = token_spec(value, where, f"added_tokens_decoder[{key}]")
        return
    legacy = folder / "special_tokens_map.json"
    _take_tokens(settings, {k: v for k, v in read_object(legacy).items() if not overrides.get(k)}, legacy,
                 special=True)
    older, settings.added_is_older = folder / "added_tokens.json", True
    special = {spec.content for spec in [*settings.named.values(), *settings.extra]}
    for content, index in read_object(older).items():
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise TokenizerError(f"`{content[:80]}` has no id", where=older, found=repr(index)[:80])
        settings.added[index] = TokenSpec(content, content in special, {"normalized": content not in special})


def _take_tokens(settings: Settings, source: dict, where: object, *, special: bool = False) -> None:
    """Takes the named and the extra special tokens from one file's object."""
    for key, value in source.items():
        if value is not None and (key in STANDARD or (key.endswith("_token") and isinstance(value, (str, dict)))):
            settings.named[key] = token_spec(value, where, key, special=special)
    extra = source.get("extra_special_tokens") or source.get("additional_special_tokens") or []
    named = source.get("model_specific_special_tokens") or {}
    if not isinstance(extra, (list, dict)) or not isinstance(named, dict):
        raise TokenizerError("the extra special tokens are neither a list nor an object", where=where)
    if isinstance(extra, dict):
        named, extra = {**named, **extra}, []
    for key, value in named.items():
        settings.named[key] = token_spec(value, where, key, special=special)
    known = {spec.content for spec in settings.extra}
    specs = [token_spec(value, where, "extra_special_tokens", special=True) for value in extra]
    settings.extra += [spec for spec in specs if spec.content not in known]


def _read_templates(folder: Path, config: dict, overrides: dict) -> tuple[Any, dict[str, str]]:
    """The chat template or named templates, and the file that each came from."""
    where = folder / CONFIG
    templates, files = {}, {}

    def take(found: dict[str, str], source: object) -> None:
        templates.update(found)
        files.update(dict.fromkeys(found, str(source)))

    older = folder / "chat_template.json"
    take(named_templates(read_object(older).get("chat_template"), older), older)
    take(named_templates(config.get("chat_template"), where), where)
    if overrides.get("chat_template") is None:
        if (text := read_text(folder / TEMPLATE)) is not None:
            take({"default": text}, folder / TEMPLATE)
        for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
            take({path.name.removesuffix(".jinja"): read_text(path) or ""}, path)
    if set(templates) == {"default"}:
        return templates["default"], files
    return templates or None, files


def named_templates(value: Any, where: object) -> dict[str, str]:
    """Templates by name, from a text, a list of `{"name", "template"}` or an object."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    if isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair):
        return value
    raise TokenizerError("`chat_template` is neither text nor a list of named templates", where=where,
                         found=repr(value)[:80], expected='[{"name": …, "template": …}, …]')
