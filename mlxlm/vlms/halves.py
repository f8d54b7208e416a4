"""What the files here share: a config with two halves, the tower that one of them describes, and checkpoints' names."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from ..architecture import TextHalf
from ..config import normalize, read, text_part
from ..decoder import Decoder
from ..errors import ConfigError, GenerationError
from ..vision.vit import patches_to_mlx
from ..vlm import Item
from ..weights import Drop, Each, Rename, TextRules

# What transformers assumes where a text half is silent, as many released ones are.
_LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32_000}
ASSUMED: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "intermediate_size": 11_008},
    "mistral": {**_LLAMA, "intermediate_size": 14_336, "num_key_value_heads": 8, "sliding_window": 4096},
    "ministral3": {**_LLAMA, "intermediate_size": 14_336, "num_key_value_heads": 8},
    "qwen2": {**_LLAMA, "intermediate_size": 22_016, "vocab_size": 151_936, "use_sliding_window": False},
    "gemma": {"hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28, "num_attention_heads": 16,
              "vocab_size": 256_000},
    "gemma2": {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
               "num_key_value_heads": 4, "vocab_size": 256_000},
    "lfm2": {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 65_536},
}  # fmt: skip

TOWERS = {
    "siglip_vision_model": ("siglip", "SiglipConfig", "Siglip"),
    "clip_vision_model": ("clip", "ClipConfig", "Clip"),
    "pixtral": ("pixtral", "PixtralConfig", "Pixtral"),
    "siglip2_vision_model": ("siglip2", "Siglip2Config", "Siglip2"),
}


@dataclass(kw_only=True)
class HalvesConfig:
    """A config.json with a text half and a vision half; the latter as it stands there."""

    TEXT: ClassVar[str] = "llama"  # the types of the halves, where the config doesn't say
    TOWER: ClassVar[str] = "siglip_vision_model"
    IMAGE_TOKEN: ClassVar[int] = 0
    UNREAD: ClassVar[frozenset[str]] = frozenset({
        "ignore_index", "image_seq_length", "vocab_size", "hidden_size", "max_position_embeddings", "perceiver_config",
        "is_composition", "tokenizer_model_max_length", "projection_dim", "num_image_tokens", "tie_word_embeddings",
    })  # fmt: skip
    # Words in text halves of released checkpoints that say something about the tower, or about training.
    TEXT_UNREAD: ClassVar[frozenset[str]] = frozenset({
        "perceiver_config", "pixel_shuffle_factor", "qk_layer_norms", "use_resampler", "neftune_noise_alpha",
        "num_image_tokens", "is_composition", "_flash_attn_2_enabled", "rope_interleaved",
    })  # fmt: skip

    text_config: TextHalf
    vision_config: dict[str, Any] = field(default_factory=dict)
    image_token_id: int | None = None
    image_token_index: int | None = None  # the older word

    @classmethod
    def text(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """The text half of a config.json, with what it leaves out."""
        own = raw.get("text_config")
        own = own if isinstance(own, dict) else {}
        kind = own.get("model_type")
        kind = kind if isinstance(kind, str) and kind else cls.TEXT
        inner = {k: v for k, v in text_part({**raw, "text_config": own}).items() if k not in cls.TEXT_UNREAD}
        tied = {"tie_word_embeddings": True} if own.get("tie_word_embeddings") else {}  # the root's false is a default
        return {**ASSUMED.get(kind, {}), **inner, **tied, "model_type": kind}

    @property
    def image_token(self) -> int:
        """The id that keeps the places of an image's rows."""
        given = [t for t in (self.image_token_id, self.image_token_index) if t is not None]
        return given[0] if given else self.IMAGE_TOKEN

    def halves(self) -> tuple[Decoder, Any, Any]:
        """The decoder, the tower, and the tower's config. Raises ConfigError for a tower that isn't known."""
        kind = self.vision_config.get("model_type") or self.TOWER
        if not isinstance(kind, str) or kind not in TOWERS:
            raise ConfigError("vision_config is of a type that isn't known here", where="config.json",
                              found=repr(kind)[:60], expected=", ".join(sorted(TOWERS)))
        name, config, tower = TOWERS[kind]
        module = import_module(f"..vision.{name}", __package__)
        settings = self.vision(getattr(module, config))
        return self.decoder(), getattr(module, tower)(settings), settings

    def decoder(self) -> Decoder:
        """The text half's; its config is its own."""
        decoder = self.text_config.build()
        decoder.config, decoder.model_type = self.text_config.config, self.text_config.config.model_type
        return decoder

    def vision(self, kind: type) -> Any:
        """``vision_config`` as a tower's own dataclass."""
        where = "config.json, vision_config"
        return read(kind, normalize(self.vision_config, where), where)


def beside(item: Item, name: str) -> list[Any]:
    """The numbers that come with an item's pixels. Raises GenerationError where they don't."""
    if name not in item:
        raise GenerationError(f"{name} is missing", where="media", expected="what the processor makes of an image")
    return np.array(item[name]).tolist()


def names(*parts: str) -> tuple:
    """Rules for the spellings of transformers 4 and 5 and of mlx-vlm; ``parts`` are the modules beside both halves."""
    return (
        *(Rename(f"^model.{part}", part) for part in ("vision_tower", *parts)),
        Rename("^vision_tower.vision_model", "vision_tower"),
        Drop("^vision_tower.head"),  # pools the whole image for contrast
        Drop("^vision_tower.embeddings.position_ids"),
        Rename("^model.language_model", "language_model.model"),
        Rename("^lm_head", "language_model.lm_head"),
        TextRules(),
    )


def values(path: str = "embeddings.patch_embedding") -> tuple:
    """The rules for values: the tower's patch convolution and the text half's."""
    return (Each(f"^vision_tower.{path}.weight", patches_to_mlx), TextRules(kind="values"))


# The way back to mlx-vlm's names, which keep transformers 4's ``vision_model`` in the tower.
SAVED = (Rename("^vision_tower", "vision_tower.vision_model"), TextRules(kind="saved"))
