"""Gemma 4: images and frames of any shape, whose rows see each other in layers with a window if the config says so."""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..architecture import Architecture, TextHalf
from ..vision.gemma4 import Embedder, VisionConfig, VisionTower
from ..vlm import Item, Rows, Sight, VisionLanguage, runs
from ..weights import Drop, Rename, TextRules, When


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({"tie_word_embeddings", "eoa_token_index", "vision_soft_tokens_per_image"})

    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 258_880
    video_token_id: int = 258_884


class Gemma4(VisionLanguage):
    def __init__(self, *parts: Any, both_ways: bool, **more: Any):
        super().__init__(*parts, **more)
        self._both_ways = both_ways

    def shared(self, tokens: mx.array, seen: dict[int, list[Rows]]) -> dict[Any, mx.array]:
        return {"together_near": runs(tokens, seen)} if self._both_ways else {}

    def whole(self, tokens: mx.array, shared: dict[Any, mx.array]) -> tuple[tuple[int, int], ...]:
        return super().whole(tokens, {"together": shared["together_near"]} if shared else {})


def build(c: Config) -> VisionLanguage:
    decoder, tower = c.text_config.build(), VisionTower(c.vision_config)
    embedder = Embedder(c.vision_config, c.text_config.config.hidden_size)

    def sight(pixels: str, places: str, token: int) -> Sight:
        def look(item: Item) -> mx.array:
            return embedder(tower(item[pixels], item[places]))

        return Sight((pixels, places), token, look)

    return Gemma4(
        tower,
        decoder,
        [
            sight("pixel_values", "image_position_ids", c.image_token_id),
            sight("pixel_values_videos", "video_position_ids", c.video_token_id),
        ],
        beside=("num_frames_per_video", "mm_token_type_ids"),
        both_ways=c.text_config.config.use_bidirectional_attention == "vision",
        embed_vision=embedder,
    )


NAMES = (
    Rename("^model.vision_tower", "vision_tower"),
    Rename("^model.embed_vision", "embed_vision"),
    Rename("^model.language_model", "language_model.model"),
    Rename("^lm_head", "language_model.lm_head"),
    *(Drop(f"^{root}{part}") for root in ("", "model.") for part in ("audio_tower", "embed_audio")),
    When(
        lambda c: not c.vision_config.use_clipped_linears,
        tuple(Drop(f"{side}_{end}") for side in ("input", "output") for end in ("min", "max")),
    ),
    TextRules(),
)
ARCHITECTURE = Architecture(Config, build, NAMES, (TextRules(kind="values"),))
