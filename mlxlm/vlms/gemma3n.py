"""Gemma 3n: MobileNet V5's features as soft tokens; the tokens around them have embeddings of the vision side too."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..architecture import Architecture, TextHalf
from ..cache import State
from ..errors import ConfigError
from ..layers import BareRMSNorm, RMSNorm
from ..vision.mobilenet_v5 import MobileNetConfig, MobileNetV5
from ..vlm import Item, Rows, Sight, VisionLanguage
from ..weights import Drop, Each, Rename, TextRules


@dataclass(kw_only=True)
class VisionConfig(MobileNetConfig):
    UNREAD = MobileNetConfig.UNREAD - {"vocab_size", "vocab_offset", "rms_norm_eps"}

    vocab_size: int = 128
    vocab_offset: int = 262_144
    rms_norm_eps: float = 1e-6


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({"tie_word_embeddings", "audio_soft_tokens_per_image", "eoa_token_index"})

    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 262_145
    vision_soft_tokens_per_image: int = 256

    def __post_init__(self):
        if self.vision_config.output_side**2 != self.vision_soft_tokens_per_image:
            raise ConfigError("vision_soft_tokens_per_image isn't what the tower makes", where="config.json",
                              found=self.vision_soft_tokens_per_image, expected=self.vision_config.output_side**2)


class Embedder(nn.Module):
    """Soft tokens and hard ones into the language model's space, each with a norm of its own before."""

    def __init__(self, c: VisionConfig, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(c.vocab_size, c.hidden_size)
        self.hard_embedding_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.soft_embedding_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.embedding_projection = nn.Linear(c.hidden_size, dim, bias=False)
        self._after, self._first, self._size = BareRMSNorm(dim, c.rms_norm_eps), c.vocab_offset, c.vocab_size

    def __call__(self, x: mx.array) -> mx.array:
        """Soft tokens (…, hidden_size) to (…, dim)."""
        return self._after(self.embedding_projection(self.soft_embedding_norm(x)))

    def own(self, tokens: mx.array) -> mx.array:
        """(B, L) booleans: the tokens of this side's vocabulary."""
        return (tokens >= self._first) & (tokens < self._first + self._size)

    def hard(self, tokens: mx.array) -> mx.array:
        """Tokens of this side's vocabulary (B, L) to (B, L, dim)."""
        rows = self.embedding(mx.clip(tokens - self._first, 0, self._size - 1))
        return self._after(self.embedding_projection(self.hard_embedding_norm(rows)))


class Gemma3n(VisionLanguage):
    embed_vision: Embedder

    def __call__(self, tokens: mx.array, cache: State | Sequence | None = None, **media: mx.array | None) -> mx.array:
        if not any(x is not None for x in media.values()) and tokens.shape[1] > 1 and self._seeing(tokens):
            state = self.make_cache() if cache is None else cache if isinstance(cache, State) else State(cache)
            return self.speak(self.merge(tokens, state, {}), state)
        return super().__call__(tokens, cache, **media)

    def _seeing(self, tokens: mx.array) -> bool:
        return bool(self.embed_vision.own(tokens).any().item())

    def embedded(self, tokens: mx.array, seen: dict[int, list[Rows]]) -> Any:
        own, hard = self.embed_vision.own(tokens), self.embed_vision.hard(tokens)

        def fill(x: mx.array) -> mx.array:
            return self.filled(mx.where(own[..., None], hard.astype(x.dtype), x), tokens, seen)

        return self.backbone.embed(tokens, fill)


def build(c: Config) -> VisionLanguage:
    decoder, tower = c.text_config.build(), MobileNetV5(c.vision_config)
    embedder = Embedder(c.vision_config, c.text_config.config.hidden_size)

    def look(item: Item) -> mx.array:
        return embedder(tower(item["pixel_values"]) * c.vision_config.hidden_size**0.5)

    sight = Sight(("pixel_values",), c.image_token_id, look)
    return Gemma3n(tower, decoder, [sight], beside=("token_type_ids",), embed_vision=embedder)


def to_mlx(w: mx.array, config: Config) -> mx.array:
    """Convolutions to MLX's layout."""
    return w.transpose(0, 2, 3, 1) if w.ndim == 4 else w


NAMES = (
    Rename("^model.vision_tower", "vision_tower"),
    Rename("^vision_tower.timm_model", "vision_tower"),
    Rename("^model.embed_vision", "embed_vision"),
    Rename("^model.language_model", "language_model.model"),
    Rename("^lm_head", "language_model.lm_head"),
    *(Drop(f"^{root}{part}") for root in ("", "model.") for part in ("audio_tower", "embed_audio")),
    TextRules(),
)
VALUES = (Each("^vision_tower", to_mlx), TextRules(kind="values"))
ARCHITECTURE = Architecture(Config, build, NAMES, VALUES, (Rename("^vision_tower", "vision_tower.timm_model"),))
