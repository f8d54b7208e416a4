"""OLMo 3: OLMo 2 with three sliding layers for each full one; a scaled rope is for the full ones only."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from . import olmo2

KINDS = ("full_attention", "sliding_attention")


@dataclass(kw_only=True)
class Config(olmo2.Config):
    rope_theta: float = 500_000.0
    sliding_window: int = 4096
    layer_types: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        settings = self.rope_parameters or {}
        if not any(kind in settings for kind in KINDS):
            near = {k: v for k, v in settings.items() if k == "rope_theta"}
            self.rope_parameters = {"full_attention": settings, "sliding_attention": near}


def build(c: Config) -> Decoder:
    kinds = recipe.layer_types(c, lambda i: KINDS[(i + 1) % 4 != 0], KINDS)
    parts = {
        "full_attention": {"rope": recipe.rope(c, "full_attention")},
        "sliding_attention": {"rope": recipe.rope(c, "sliding_attention"), "window": c.sliding_window},
    }
    return olmo2.build(c, lambda i: parts[kinds[i]])


ARCHITECTURE = Architecture(Config, build)
