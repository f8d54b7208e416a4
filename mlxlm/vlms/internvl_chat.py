"""InternVL as its makers write it: other words in config.json, other names in the checkpoint, the same model."""

from dataclasses import dataclass, field
from functools import cached_property

from ..architecture import Architecture, TextHalf
from ..errors import ConfigError
from ..vision.intern import InternConfig
from ..weights import Rename, TextRules
from . import internvl

ADDED_TOKENS = 7  # from <IMG_CONTEXT> to the vocabulary's end, where nothing was padded
CONTEXT_TOKENS = {"qwen3": 151_671, "qwen3_moe": 151_671}  # of text models whose vocabulary has room to spare


@dataclass(kw_only=True)
class VisionConfig(InternConfig):
    hidden_size: int = 3200
    intermediate_size: int = 12_800
    num_hidden_layers: int = 48
    num_attention_heads: int = 25
    image_size: int = 224
    norm_type: str = "rms_norm"
    qkv_bias: bool = False
    qk_normalization: bool = True

    def __post_init__(self):
        self.attention_bias, self.use_qk_norm = self.qkv_bias, self.qk_normalization
        super().__post_init__()


@dataclass(kw_only=True)
class Config:
    UNREAD = frozenset({
        "dynamic_image_size", "max_dynamic_patch", "min_dynamic_patch", "pad2square", "template", "use_backbone_lora",
        "use_llm_lora", "use_thumbnail", "image_fold", "system_message", "hidden_size", "tie_word_embeddings",
        "video_token_index", "ignore_index", "vocab_size",
    })  # fmt: skip

    text_config: TextHalf
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    downsample_ratio: float = 0.5
    select_layer: int = -1
    ps_version: str = "v2"
    force_image_size: int | None = None
    image_token_index: int | None = None
    vision_feature_layer: int = -1  # mlx-vlm's word for select_layer
    vision_feature_select_strategy: str = "default"
    projector_hidden_act: str = "gelu"

    def __post_init__(self):
        if self.ps_version != "v2":
            raise ConfigError("this pixel shuffle is not known", where="config.json",
                              found=f"ps_version {self.ps_version!r}", expected="'v2'")
        if self.force_image_size not in (None, self.vision_config.image_size):
            raise ConfigError("force_image_size isn't the size that the tower was trained on", where="config.json",
                              found=self.force_image_size, expected=self.vision_config.image_size)
        if self.select_layer != -1:
            self.vision_feature_layer = self.select_layer

    @cached_property
    def image_token_id(self) -> int:
        """The id of <IMG_CONTEXT>, which its makers' code asks the tokenizer for."""
        if self.image_token_index is not None:
            return self.image_token_index
        text = self.text_config.config
        return CONTEXT_TOKENS.get(text.model_type) or text.vocab_size - ADDED_TOKENS


NAMES = (
    Rename("^vision_model", "vision_tower"),
    Rename("^mlp1.0", "multi_modal_projector.layer_norm"),
    Rename("^mlp1.1", "multi_modal_projector.linear_1"),
    Rename("^mlp1.3", "multi_modal_projector.linear_2"),
    *internvl.TOWER_NAMES,
    TextRules(),
)
ARCHITECTURE = Architecture(Config, internvl.build, NAMES, internvl.VALUES)
