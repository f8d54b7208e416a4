"""Llama 3.2 Vision: what the tower sees isn't put among the text; layers of the decoder look at it from where they are.

An image's token stands for it in the prompt: the text from there to the next image sees it, and images that follow one
another directly are seen together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..architecture import Architecture, TextHalf
from ..cache import CrossCache, State
from ..errors import GenerationError
from ..vision.mllama import VisionConfig, VisionTower
from ..vision.vit import patches_to_mlx
from ..vlm import Item, Prompt, Rows, Sight, VisionLanguage
from ..weights import Each, Rename, TextRules

NAMES = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({"tie_word_embeddings"})

    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_index: int = 128_256
    image_token_id: int | None = None  # transformers 5's word

    @property
    def image_token(self) -> int:
        return self.image_token_index if self.image_token_id is None else self.image_token_id


@dataclass(frozen=True)
class LookingPrompt(Prompt):
    """A prompt whose first part brings features (B, tiles * patches, dim), and for all tokens what tiles they see."""

    features: mx.array | None = None
    seen: mx.array | None = None

    def part(self, start: int, end: int) -> Prompt:
        plain = super().part(start, end)
        if start:
            return plain
        return LookingPrompt(**{f.name: getattr(plain, f.name) for f in fields(Prompt)}, features=self.features,
                             seen=self.seen)  # fmt: skip


class Mllama(VisionLanguage):
    def merge(self, tokens: mx.array, state: State, media: Mapping[str, mx.array]) -> Prompt:
        """The prompt, with what the caches of the looking layers shall hold. One row at a time."""
        if strange := sorted(media.keys() - self._known):
            raise GenerationError("media of a kind that the model doesn't take", where="media",
                                  found=", ".join(strange), expected=", ".join(sorted(self._known)))
        if tokens.shape[0] != 1:
            raise GenerationError("prompts with images go one by one", where="tokens", found=f"{tokens.shape[0]} rows")
        (sight,) = self._sights
        if not (rows := self._seen(sight, tokens, media)):
            return Prompt(self.embedded(tokens, {}))
        tiles = np.array(media["aspect_ratio_mask"])[0].astype(bool)  # (images, tiles)
        if (given := media.get("cross_attention_mask")) is not None:
            seen = np.array(given).astype(bool)[0].reshape(tokens.shape[1], -1)
        else:
            at = np.flatnonzero(np.array(tokens[0]) == sight.token)
            seen = (ranges(at, tokens.shape[1])[..., None] & tiles).reshape(tokens.shape[1], -1)
        real = tiles.flatten()
        features = mx.concatenate([r.first for r in rows])
        patches = features.shape[0] // real.size
        features = mx.unflatten(features, 0, (real.size, patches))[mx.array(np.flatnonzero(real))].flatten(0, 1)
        return LookingPrompt(self.embedded(tokens, {}), features=features[None], seen=mx.array(seen[:, real])[None])

    def speak(self, prompt: Prompt, state: State) -> mx.array:
        if isinstance(prompt, LookingPrompt) and prompt.features is not None and prompt.seen is not None:
            for layer, cache in zip(self.layers, state, strict=True):
                if isinstance(cache, CrossCache):
                    keys, values = layer.cross_attn.remembered(prompt.features)
                    cache.see(keys, values, prompt.seen)
        return super().speak(prompt, state)

    def _seen(self, sight: Sight, tokens: mx.array, media: Mapping[str, mx.array]) -> list[Rows]:
        rows = [self.features.get(item, sight.look) for item in sight.items(media)]
        if (room := np.count_nonzero(np.array(tokens) == sight.token)) != len(rows):
            raise GenerationError("the prompt needs a token for each image", where="pixel_values",
                                  found=f"{room} tokens of id {sight.token}", expected=f"{len(rows)}")
        return rows


def ranges(at: np.ndarray, length: int) -> np.ndarray:
    """(length, images) booleans: which tokens see the images whose tokens stand ``at`` these places."""
    seen, end = np.zeros((length, len(at)), bool), length
    for i in reversed(range(len(at))):
        follows = at[i + 1] if i + 1 < len(at) else length
        end = end if follows == at[i] + 1 else follows  # images in a row are seen together
        seen[at[i] : end, i] = True
    return seen


def images(media: Mapping[str, mx.array]) -> list[Item]:
    """Each image's arrays; the layout is (1, images, …)."""
    return [{name: x[0, i : i + 1] for name, x in media.items()} for i in range(media[NAMES[0]].shape[1])]


def build(c: Config) -> VisionLanguage:
    decoder: Any = c.text_config.build()
    tower = VisionTower(c.vision_config)
    projector = nn.Linear(c.vision_config.vision_output_dim, c.text_config.config.hidden_size)

    def look(item: Item) -> mx.array:
        pixels = item["pixel_values"].astype(tower.class_embedding.dtype)
        # Asked of the model, where a quantized one may have taken its place.
        return model["multi_modal_projector"](tower(pixels, item["aspect_ratio_ids"], item["aspect_ratio_mask"]))

    sight = Sight(NAMES, c.image_token, look, images)
    model = Mllama(tower, decoder, [sight], beside=("cross_attention_mask",), multi_modal_projector=projector)
    return model


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        Rename("^model.vision_model", "vision_tower"),
        Rename("^vision_model", "vision_tower"),
        Rename("^model.multi_modal_projector", "multi_modal_projector"),
        Rename("^model.language_model", "language_model.model"),
        Rename("^lm_head", "language_model.lm_head"),
        TextRules(),
    ),
    (Each("^vision_tower.patch_embedding.weight", patches_to_mlx), TextRules(kind="values")),
)
