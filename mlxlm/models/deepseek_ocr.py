"""DeepSeek-OCR's text half: DeepSeek V2 with Llama's attention."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..weights import Drop, Rename
from . import deepseek_v2, deepseek_v3


@dataclass(kw_only=True)
class Config(deepseek_v2.Config):
    use_mla: bool = False


PARTS = ("sam_model", "vision_model", "projector", "image_newline", "view_seperator", "view_separator")
ARCHITECTURE = Architecture(
    Config,
    deepseek_v2.build,
    (
        Rename("^language_model.model", "model"),
        Rename("^language_model.lm_head", "lm_head"),
        *(Drop(f"^{root}{part}") for root in ("", "model.") for part in PARTS),
        *deepseek_v3.NAMES,
    ),
)
