"""InternVL, as transformers writes it: tiles of an image through InternViT, four patches a row."""

from dataclasses import dataclass, field

import mlx.core as mx

from ..architecture import Architecture, TextHalf
from ..errors import ConfigError
from ..vision.intern import InternConfig, InternTower, Projector
from ..vision.vit import chosen, patches_to_mlx
from ..vlm import Item, Sight, VisionLanguage
from ..weights import Each, Rename, Split, TextRules


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({"image_seq_length", "tie_word_embeddings"})

    text_config: TextHalf
    vision_config: InternConfig = field(default_factory=InternConfig)
    image_token_id: int = 151_667
    downsample_ratio: float = 0.5
    projector_hidden_act: str = "gelu"
    vision_feature_layer: int | list[int] = -1
    vision_feature_select_strategy: str = "default"

    def __post_init__(self):
        if self.vision_feature_select_strategy not in ("default", "full"):
            raise ConfigError("vision_feature_select_strategy is not known", where="config.json",
                              found=repr(self.vision_feature_select_strategy), expected="default or full")


def build(c: Config) -> VisionLanguage:
    decoder, tower = c.text_config.build(), InternTower(c.vision_config)
    width = decoder.backbone.embedding.weight.shape[1]
    projector = Projector(c.vision_config.hidden_size, width, c.downsample_ratio, c.projector_hidden_act)
    first = int(c.vision_feature_select_strategy == "default")  # the class token's row isn't shown

    def look(item: Item) -> mx.array:
        return projector(chosen(tower.states(item["pixel_values"]), c.vision_feature_layer, skip=first))

    sight = Sight(("pixel_values",), c.image_token_id, look)
    return VisionLanguage(tower, decoder, [sight], multi_modal_projector=projector)


TOWER_NAMES = (
    Rename("embeddings.cls_token", "embeddings.class_embedding"),
    Rename("embeddings.position_embeddings", "embeddings.position_embedding"),
    Rename("embeddings.patch_embeddings.projection", "embeddings.patch_embedding"),
    Rename("encoder.layer.*.attention.projection_layer", "encoder.layers.*.attn.proj"),
    Rename("encoder.layer.*.attention", "encoder.layers.*.attn"),
    Rename("^vision_tower.encoder.layer", "vision_tower.encoder.layers"),
    Rename("encoder.layers.*.layernorm_before", "encoder.layers.*.norm1"),
    Rename("encoder.layers.*.layernorm_after", "encoder.layers.*.norm2"),
    Rename("encoder.layers.*.lambda_1", "encoder.layers.*.ls1"),
    Rename("encoder.layers.*.lambda_2", "encoder.layers.*.ls2"),
    Split("attn.qkv", ("attn.q_proj", "attn.k_proj", "attn.v_proj")),  # as its makers keep them
)
HALVES = (
    Rename("^model.vision_tower", "vision_tower"),
    Rename("^model.multi_modal_projector", "multi_modal_projector"),
    Rename("^model.language_model", "language_model.model"),
    Rename("^lm_head", "language_model.lm_head"),
)
VALUES = (Each("^vision_tower.embeddings.patch_embedding.weight", patches_to_mlx), TextRules(kind="values"))
ARCHITECTURE = Architecture(Config, build, (*HALVES, *TOWER_NAMES, TextRules()), VALUES)
