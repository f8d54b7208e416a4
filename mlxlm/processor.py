"""What turns prompts into tokens for one checkpoint: its tokenizer with the rules for stopping, and for media more.

Which classes make arrays of media is said by preprocessor_config.json, video_preprocessor_config.json and
processor_config.json, in either of transformers' layouts; registries/vlm.toml knows ours for each of their names.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint
from .configuration import ModelConfiguration, merge_generation_config
from .data import data_file, read_toml
from .errors import ConfigError
from .files import read_object
from .text.families import give_template
from .text.tokenizer import Tokenizer


def load_processor(
    checkpoint: Checkpoint,
    configuration: ModelConfiguration,
    tokenizer_config: dict[str, Any] | None = None,
    *,
    media: bool = False,
) -> tuple[Any, ModelConfiguration]:
    """The checkpoint's tokenizer (or the configuration's own), and the configuration with stops merged in.

    With ``media`` it is a `Processor`, which has all that the tokenizer has. Raises TokenizerError where there is no
    tokenizer, or where it is damaged; ConfigError for a processor that isn't known.
    """
    configuration = merge_generation_config(configuration, checkpoint.config, checkpoint.generation_config)
    parts = None if configuration.tokenizer_id else checkpoint.tokenizer_parts()
    if parts is not None:
        tokenizer = Tokenizer.from_parts(parts, config=tokenizer_config)
    else:
        folder = _tokenizer_folder(checkpoint, configuration)
        tokenizer = Tokenizer.from_folder(folder, config=tokenizer_config, override=configuration.override_tokenizer)
    if "chat_template" not in (tokenizer_config or {}):
        give_template(tokenizer, checkpoint.config.get("model_type"), configuration.name)
    _merge_stops(tokenizer, configuration)
    tokenizer.configuration = configuration
    return (media_processor(checkpoint.path, tokenizer, checkpoint.config) if media else tokenizer), configuration


def media_processor(folder: Path, tokenizer: Any, config: Mapping[str, Any]) -> Any:
    """The `Processor` that a folder's files name, or else the config's model_type. Raises ConfigError."""
    rows = read_toml(data_file("vlm.toml"))
    files = processor_files(folder)
    names = [str(files["processor"].get("processor_class") or ""), str(config.get("model_type"))]
    row = next((rows["processors"][n] for n in reversed(names) if n in rows["processors"]), None)
    if row is None:
        raise ConfigError("this processor is not known", where=folder, found=names[0] or "no processor_class",
                          expected=f"one of {', '.join(sorted(rows['processors']))}")
    from .processors.base import settings_that_fit

    kind = _class(row)
    with settings_that_fit("image"):
        image = _made(kind, "image", files["image"] or kind.assumed(config), rows["image_processors"], folder)
    with settings_that_fit("video"):
        video = _made(kind, "video", files["video"] or kind.assumed(config), rows["video_processors"], folder)
    with settings_that_fit("image"):
        return kind(tokenizer, image, video, files["processor"], config)


def processor_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of the image processor, of the video processor, and of the processor itself.

    transformers 5 keeps all three in processor_config.json, older ones each in a file of its own; where nothing is said
    of videos, what is said of images holds for them.
    """
    whole = read_object(folder / "processor_config.json") or {}
    image = whole.get("image_processor") or read_object(folder / "preprocessor_config.json") or {}
    video = whole.get("video_processor") or read_object(folder / "video_preprocessor_config.json") or image
    own = {k: v for k, v in whole.items() if k not in ("image_processor", "video_processor")}
    own.setdefault("processor_class", image.get("processor_class") or video.get("processor_class"))
    return {"image": dict(image), "video": dict(video), "processor": own}


def _made(kind: type, media: str, settings: dict[str, Any], rows: Mapping[str, str], folder: Path) -> Any:
    """The image or video processor that the settings name, else the one that is usual for the processor."""
    name = settings.get(f"{media}_processor_type") or settings.get("feature_extractor_type")
    default = getattr(kind, f"default_{media}_processor", None)
    row = rows.get(name) if isinstance(name, str) else None
    row = row or (default and rows.get(default))
    if row is None and media == "image":
        raise ConfigError(f"this {media} processor is not known", where=folder / "preprocessor_config.json",
                          found=repr(name), expected=f"one of {', '.join(sorted(rows))}")
    return _class(row)(**settings) if row else None


def _class(row: str) -> Any:
    """What ``module:Class`` names within mlxlm.processors; imported on first use."""
    module, _, name = row.partition(":")
    return getattr(import_module(f"mlxlm.processors.{module}"), name)


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
