"""A GGUF's tokenizer as a `tokenizers` backend: byte-level BPE (``gpt2``) or SentencePiece's BPE (``llama``)."""

from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from ..errors import TokenizerError
from .gguf_pretokenizers import way
from .parts import TokenizerParts

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# Tokens that end a turn in some family. A GGUF has no generation_config.json to list them.
ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
        "<EOT>",
        "<|end_of_text|>", "<｜end▁of▁sentence｜>", "[EOS]", "[EOT]", "<|user|>", "<|observation|>")
HARMONY = ("<|return|>", "<|call|>")  # with these two, <|end|> closes a message and not the turn
GLM = ("<|user|>", "<|observation|>")  # the next speaker's tag ends a turn where the file's eot says so
DEFAULT_IDS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {}}


class _Vocabulary:
    """Tokens, types and scores, checked against each other."""

    def __init__(self, metadata: dict[str, Any], where: object):
        self.where, self.metadata = where, metadata
        raw = self.need("tokens", list)
        if not raw or not isinstance(raw[0], bytes):
            raise TokenizerError("tokenizer.ggml.tokens must be a list of strings", where=where)
        self.tokens = _decoded(raw, where)
        count = len(raw)
        if "" in self.tokens:
            self.tokens = [t or f"[EMPTY_{i}]" for i, t in enumerate(self.tokens)]
        self.ids = dict(zip(self.tokens, range(count), strict=True))
        if len(self.ids) != count:
            raise TokenizerError("tokens come twice in tokenizer.ggml.tokens", where=where,
                                 found=f"{count - len(self.ids)} of {count}")
        self.types = self._numbers("token_type", "iu", count)

    def need(self, name: str, kind: type) -> Any:
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        if not isinstance(value, kind):
            raise TokenizerError(f"tokenizer.ggml.{name} is missing or of another type", where=self.where,
                                 found=repr(value)[:40],
                                 hint="Give the model's original tokenizer with tokenizer_id.")
        return value

    def _numbers(self, name: str, kinds: str, count: int) -> np.ndarray | None:
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or len(value) < count:
            raise TokenizerError(f"tokenizer.ggml.{name} must hold a number for each of the {count} tokens",
                                 where=self.where,
                                 found=f"{len(value)} values" if hasattr(value, "__len__") else repr(value)[:40])
        return value[:count]

    @property
    def scores(self) -> np.ndarray:
        scores = self._numbers("scores", "fiu", len(self.tokens))
        if scores is None:
            raise TokenizerError("tokenizer.ggml.scores are missing", where=self.where)
        return scores

    def of_type(self, *types: int) -> np.ndarray:
        return np.flatnonzero(np.isin(self.types, types)) if self.types is not None else np.empty(0, np.int64)

    def special(self, stem: str) -> int | None:
        """The id under tokenizer.ggml.<stem>_token_id, or the format's default."""
        key = f"tokenizer.ggml.{stem}_token_id"
        default = DEFAULT_IDS.get(str(self.metadata.get("tokenizer.ggml.model")), {}).get(stem)
        value = self.metadata.get(key, default)
        if value is None or value in (-1, 0xFFFFFFFF):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(self.tokens):
            if key not in self.metadata:
                return None
            raise TokenizerError(f"{key} isn't one of the {len(self.tokens)} tokens", where=self.where,
                                 found=repr(value)[:40])
        return value

    def text(self, stem: str) -> str | None:
        index = self.special(stem)
        return None if index is None else self.tokens[index]

    def flag(self, name: str, default: bool | None) -> bool | None:
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(f"tokenizer.ggml.{name} must be true or false", where=self.where,
                                 found=repr(value)[:40])
        return value


def tokenizer_parts(metadata: dict[str, Any], where: object) -> TokenizerParts:
    """Raises TokenizerError for a tokenizer of another kind, or one that contradicts itself."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in BACKENDS:
        raise TokenizerError("this kind of tokenizer can't be read from GGUF", where=where, found=repr(kind)[:40],
                             expected=", ".join(sorted(BACKENDS)),
                             hint="Give the model's original tokenizer with tokenizer_id.")
    words = _Vocabulary(metadata, where)
    try:
        backend, add_bos = BACKENDS[kind](words)
        _add_special(backend, words)
    except TokenizerError:
        raise
    except Exception as e:  # broad: the Rust library raises bare Exception for merges or tokens that it can't take
        raise TokenizerError(f"no tokenizer can be built from the metadata ({e})", where=where) from e
    return TokenizerParts(
        backend, bos_token=words.text("bos"), eos_token=words.text("eos"), unk_token=words.text("unknown"),
        pad_token=words.text("padding"),
        add_bos_token=words.flag("add_bos_token", add_bos), add_eos_token=words.flag("add_eos_token", False),
        chat_template=_templates(metadata, where), extra_eos_ids=_ends(words),
    )


def _decoded(raw: list[bytes], where: object) -> list[str]:
    try:
        return list(map(bytes.decode, raw))
    except (UnicodeDecodeError, TypeError) as e:
        raise TokenizerError("the vocabulary has strings that aren't UTF-8", where=where) from e


def _byte_level(words: _Vocabulary) -> tuple[Tokenizer, bool]:
    """GPT-2's kind: merges are in the file, bytes are spelled as printable characters."""
    pre = way(words.metadata.get("tokenizer.ggml.pre", "default"), words.where)
    raw = words.need("merges", list)
    pairs = [tuple(m.split(" ")) for m in _decoded(raw, words.where)]
    if any(len(p) != 2 for p in pairs):
        raise TokenizerError("tokenizer.ggml.merges must be pairs of tokens", where=words.where)
    backend = Tokenizer(models.BPE(words.ids, pairs, ignore_merges=pre.ignore_merges))  # type: ignore[arg-type]
    if (normalizer := pre.normalizer()) is not None:
        backend.normalizer = normalizer  # type: ignore[assignment]
    backend.pre_tokenizer = pre.stages()  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return backend, pre.add_bos


def _sentencepiece(words: _Vocabulary) -> tuple[Tokenizer, bool]:
    """SentencePiece's BPE: of all tokens that neighbours make, the best-scored first; unknown text goes to bytes."""
    prefix = words.flag("add_space_prefix", True)
    backend = Tokenizer(models.BPE(words.ids, _merges(words), unk_token=words.text("unknown"), fuse_unk=True,
                                   byte_fallback=True))
    before: list = [normalizers.Replace(" ", "▁")]
    after: list = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        before.insert(0, normalizers.Prepend("▁"))
        after.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(before)  # type: ignore[assignment]
    backend.decoder = decoders.Sequence(after)  # type: ignore[assignment]
    return backend, True


def _merges(words: _Vocabulary) -> list[tuple[str, str]]:
    """Every pair of tokens whose text together is a token, the best-scored result first, then by the parts' ids."""
    whole = np.ones(len(words.tokens), bool)
    whole[words.of_type(UNKNOWN, CONTROL, UNUSED, BYTE)] = False
    order = np.argsort(-words.scores.astype(np.float64), kind="stable")
    ids, tokens, merges = words.ids, words.tokens, []
    for index in order[whole[order]].tolist():
        piece = tokens[index]
        found = [(a, b) for i in range(1, len(piece)) if (a := piece[:i]) in ids and (b := piece[i:]) in ids]
        if len(found) > 1:
            found.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += found
    return merges


BACKENDS = {"gpt2": _byte_level, "llama": _sentencepiece}


def _add_special(backend: Tokenizer, words: _Vocabulary) -> None:
    """Control tokens, and those that a family's users defined, are found in text before anything else."""
    control = set(words.of_type(CONTROL, UNKNOWN).tolist())
    # Some files type the ends of turns as normal tokens.
    control |= {words.ids[text] for text in ENDS if text in words.ids and text not in GLM}
    own = set(words.of_type(USER_DEFINED).tolist()) - control
    backend.add_special_tokens([AddedToken(words.tokens[i], normalized=False, special=True) for i in sorted(control)])
    backend.add_tokens([AddedToken(words.tokens[i], normalized=False) for i in sorted(own)])
    if backend.get_vocab_size() != len(words.tokens):
        raise TokenizerError("added tokens got ids of their own", where=words.where, found=backend.get_vocab_size(),
                             expected=len(words.tokens))


def _ends(words: _Vocabulary) -> frozenset[int]:
    """Ids beside eos that end a turn: those that the metadata names, and those that families are known to use."""
    named = {i for stem in ("eot", "eom") if (i := words.special(stem)) is not None}
    texts = [t for t in ENDS if t in words.ids and t not in GLM]
    if all(t in words.ids for t in HARMONY):
        texts = [t for t in texts if t != "<|end|>"]
    if {words.tokens[i] for i in named} & set(GLM):
        texts += [t for t in GLM if t in words.ids]
    return frozenset(named | {words.ids[t] for t in texts}) - {words.special("eos")}


def _templates(metadata: dict[str, Any], where: object) -> str | dict[str, str] | None:
    """The chat template, or all by name where there are several."""
    prefix = "tokenizer.chat_template"
    named = {key[len(prefix) + 1 :]: value for key, value in metadata.items() if key.startswith(f"{prefix}.")}
    default = metadata.get(prefix)
    if strange := [value for value in (default, *named.values()) if value is not None and not isinstance(value, str)]:
        raise TokenizerError("a chat template must be text", where=where, found=type(strange[0]).__name__)
    if not named:
        return default
    return {"default": default, **named} if default is not None else named
