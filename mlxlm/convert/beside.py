"""The small files of a converted model: copied from a folder, or made from what a GGUF's metadata says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..checkpoint.parts import TokenizerParts
from ..checkpoint.save import copy_beside, write_json


def write_beside(checkpoint: Checkpoint, folder: Path) -> None:
    """Tokenizer, chat template, generation settings and processor files into ``folder``."""
    if checkpoint.path.is_dir():
        copy_beside(checkpoint.path, folder)
        return
    parts = checkpoint.tokenizer_parts()
    if parts is not None:
        _write_tokenizer(parts, folder)
    if checkpoint.generation_config:
        write_json(folder / "generation_config.json", checkpoint.generation_config)


def _write_tokenizer(parts: TokenizerParts, folder: Path) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(parts.backend.to_str())
    ends = _ends(parts)
    if any(ends):
        from tokenizers.processors import TemplateProcessing

        # Where the backend itself adds the ends, transformers, mlx-lm and we all add the same.
        first, last = (f"{token} " if token else "" for token in ends)
        backend.post_processor = TemplateProcessing(  # type: ignore[assignment]
            single=f"{first}$A {last}".strip(), pair=f"{first}$A {first}$B {last}".strip(),
            special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(filter(None, ends))])
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    config: dict[str, Any] = {name: getattr(parts, name) for name in names if getattr(parts, name) is not None}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
               "add_bos_token": bool(ends[0]), "add_eos_token": bool(ends[1])}
    if isinstance(parts.chat_template, dict):
        config["chat_template"] = [{"name": name, "template": text} for name, text in parts.chat_template.items()]
    elif parts.chat_template:
        (folder / "chat_template.jinja").write_text(parts.chat_template, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)


def _ends(parts: TokenizerParts) -> tuple[str | None, str | None]:
    """The tokens that are put before and after a text."""
    add_bos = parts.add_bos_token
    if add_bos is None:  # llama.cpp's rule for a file that doesn't say
        add_bos = bool(getattr(parts.backend.model, "byte_fallback", False))
    return parts.bos_token if add_bos else None, parts.eos_token if parts.add_eos_token else None
