"""What turns prompts into tokens for one checkpoint: its tokenizer, with the merged rules for stopping."""

from typing import Any

from .checkpoint import Checkpoint
from .configuration import ModelConfiguration, merge_generation_config
from .text.tokenizer import Tokenizer


def load_processor(
    checkpoint: Checkpoint, configuration: ModelConfiguration, tokenizer_config: dict[str, Any] | None = None
) -> tuple[Tokenizer, ModelConfiguration]:
    """The checkpoint's tokenizer (or the configuration's own), and the configuration with stops merged in.

    Raises TokenizerError where there is none, or where it is damaged.
    """
    configuration = merge_generation_config(configuration, checkpoint.config, checkpoint.generation_config)
    parts = None if configuration.tokenizer_id else checkpoint.tokenizer_parts()
    if parts is not None:
        tokenizer = Tokenizer.from_parts(parts, config=tokenizer_config)
    else:
        folder = _tokenizer_folder(checkpoint, configuration)
        tokenizer = Tokenizer.from_folder(folder, config=tokenizer_config, override=configuration.override_tokenizer)
    _merge_stops(tokenizer, configuration)
    tokenizer.configuration = configuration
    return tokenizer, configuration


def _tokenizer_folder(checkpoint: Checkpoint, configuration: ModelConfiguration):
    if not configuration.tokenizer_id:
        return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    from .sources import locate

    return locate(configuration.tokenizer_id, revision=configuration.tokenizer_revision, tokenizer_only=True)


def _merge_stops(tokenizer: Tokenizer, configuration: ModelConfiguration) -> None:
    """The tokens that end an answer: the config's, the tokenizer's own, and the extra ones by their text."""
    ids = set(configuration.eos_token_ids) | set(tokenizer.eos_token_ids)
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    extra = {tokenizer.token_to_id(token) for token in configuration.extra_eos_tokens}
    ids |= {token for token in extra if token is not None}
    tokenizer.eos_token_ids = ids
