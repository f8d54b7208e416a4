"""Opens tokenizers: tokenizer.json with the Rust library, anything else with transformers, imported only then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from mlxlm.errors import TokenizerError
from mlxlm.text.settings import CLASS_DEFAULTS, Settings, TokenSpec, in_order

TOKENIZER = "tokenizer.json"
OTHER_FORMATS = ("*.model", "*.tiktoken", "vocab.json", "vocab.txt", "tekken.json")
"""What transformers can make a tokenizer of when there is no tokenizer.json."""


@contextmanager
def explained(problem: str, where: object = None) -> Iterator[None]:
    """Turns what the Rust library raises into a TokenizerError.

    Its errors are bare `Exception`s, and a panic is a `BaseException` whose class can't be imported.
    """
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if type(error) is Exception or panic or isinstance(error, (TypeError, ValueError, OverflowError)):
            raise TokenizerError(f"{problem}: {str(error)[:300]}", where=where) from error
        raise


def open_backend(path: Path) -> Backend:
    """The tokenizer of a tokenizer.json file, without the truncation and padding it may ask for."""
    with explained("can't be read as a tokenizer", path):
        backend = Backend.from_file(str(path))
        backend.no_truncation()
        backend.no_padding()
    return backend


def add_tokens(backend: Backend, settings: Settings) -> None:
    """Adds the tokens that the side files name, in transformers' order, so that new ones get the same ids."""
    known = backend.get_added_tokens_decoder()
    own = known if settings.added_is_older else ()
    specs = [spec for index, spec in sorted(settings.added.items()) if index not in own]
    listed = {token.content for token in known.values()} | {spec.content for spec in specs}
    for spec in [*in_order(settings.named).values(), *settings.extra]:
        if spec.content not in listed:
            listed.add(spec.content)
            specs.append(TokenSpec(spec.content, True, spec.flags))
    names = {spec.content for spec in settings.named.values()}
    if specs:
        with explained("the added tokens don't fit the tokenizer"):
            backend.add_tokens([added_token(spec, spec.special or spec.content in names) for spec in specs])


def added_token(spec: TokenSpec, special: bool) -> AddedToken:
    return AddedToken(spec.content, special=special, **spec.flags)  # pyright: ignore[reportArgumentType]


def class_defaults(backend: Backend, settings: Settings) -> None:
    """Fills in the tokens that the transformers class named in the config has by default, if they exist."""
    name = (settings.tokenizer_class or "").removesuffix("Fast")
    for key, content in CLASS_DEFAULTS.get(name, {}).items():
        if key not in settings.named and key not in settings.config and backend.token_to_id(content) is not None:
            settings.named[key] = TokenSpec(content, True)


def set_ends(backend: Backend, bos: str | None, eos: str | None) -> None:
    """Makes the tokenizer put `bos` in front of a text and `eos` behind it; None for neither."""
    parts = ([f"{bos}:0"] if bos else []) + ["$A:0"] + ([f"{eos}:0"] if eos else [])
    pair = parts + ([f"{bos}:1"] if bos else []) + ["$B:1"] + ([f"{eos}:1"] if eos else [])
    special = [(token, backend.token_to_id(token)) for token in dict.fromkeys((bos, eos)) if token]
    missing = [token for token, index in special if index is None]
    if missing:
        raise TokenizerError(f"the vocabulary has no {missing[0]!r}, which is to be added to every text")
    with explained("the tokens at the ends of a text can't be set"):
        backend.post_processor = processors.TemplateProcessing(single=parts, pair=pair, special_tokens=special)


class CalledBackend:
    """A transformers tokenizer that has no Rust backend, behind the few methods that Tokenizer uses."""

    def __init__(self, slow: Any):
        self.slow = slow

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        ids = self._call(lambda: self.slow.encode(text, add_special_tokens=add_special_tokens))
        return _Ids([int(token) for token in ids])

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return self._call(lambda: self.slow.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token_to_id(self, token: str) -> int | None:
        return self.get_vocab().get(token)

    def id_to_token(self, token: int) -> str | None:
        return self._call(lambda: self.slow.convert_ids_to_tokens(token)) if 0 <= token < len(self.slow) else None

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return self._call(self.slow.get_vocab)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return len(self.slow) if with_added_tokens else self.slow.vocab_size

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(self.slow.added_tokens_decoder)

    def _call(self, function: Callable[[], Any]) -> Any:
        with _transformers_errors("the transformers tokenizer refused", type(self.slow).__name__):
            return function()


class _Ids:
    def __init__(self, ids: list[int]):
        self.ids = ids


@contextmanager
def _transformers_errors(problem: str, where: object) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError,
            AssertionError, ArithmeticError) as error:
        raise TokenizerError(f"{problem}: {type(error).__name__}: {str(error)[:300]}", where=where) from error


def open_with_transformers(folder: Path, class_name: str | None, config: dict[str, Any] | None) -> Any:
    """A transformers tokenizer for a folder: of the class named, else of the one AutoTokenizer picks.

    Nothing from the folder is run: code of the checkpoint is refused, and no network is used.
    """
    reason = f"tokenizer class {class_name!r}" if class_name else f"a folder without {TOKENIZER}"
    try:
        import transformers
    except ImportError as error:
        raise TokenizerError(f"{reason} needs transformers", where=folder,
                             hint='Run: pip install "mlxlm[transformers]"') from error
    options = {k: v for k, v in (config or {}).items() if k != "trust_remote_code"}
    with explained("transformers can't make a tokenizer of this folder", folder), _transformers_errors(
            "transformers can't make a tokenizer of this folder", folder):
        maker = _tokenizer_class(transformers, class_name)
        return maker.from_pretrained(os.fspath(folder), trust_remote_code=False, local_files_only=True, **options)


def _tokenizer_class(transformers: Any, name: str | None) -> Any:
    if name is None:
        return transformers.AutoTokenizer
    found = None
    for candidate in (name, name.removesuffix("Fast"), f"{name}Fast"):
        found = getattr(transformers, candidate, None) if candidate.isidentifier() else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase):
            return found
    raise TokenizerError(f"transformers {transformers.__version__} has no tokenizer class of this name",
                         where="override_tokenizer", found=repr(name),
                         expected='a class name such as "LlamaTokenizer"')


def has_other_format(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in OTHER_FORMATS)
