"""LFM2-VL: SigLIP 2 over patches of any grid, squares of which become one row, and LFM2."""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from ..architecture import Architecture
from ..layers import LayerNorm
from ..vision.projectors import LinearPair, fold
from ..vlm import Item, Sight, VisionLanguage
from ..weights import Drop, TextRules, When
from .halves import HalvesConfig, beside, names


@dataclass(kw_only=True)
class Config(HalvesConfig):
    TEXT: ClassVar[str] = "lfm2"
    TOWER: ClassVar[str] = "siglip2_vision_model"
    IMAGE_TOKEN: ClassVar[int] = 396
    UNREAD: ClassVar[frozenset[str]] = HalvesConfig.UNREAD | {
        "do_image_splitting", "encoder_patch_size", "max_image_tokens", "max_num_patches", "max_pixels_tolerance",
        "max_tiles", "min_image_tokens", "min_tiles", "tile_size", "use_image_special_tokens", "use_thumbnail",
        "tie_embedding", "vision_feature_layer",  # the normed features are taken, whatever it says
    }  # fmt: skip

    downsample_factor: int = 2
    projector_hidden_act: str = "gelu"
    projector_hidden_size: int = 2560
    projector_bias: bool = True
    projector_use_layernorm: bool = True


class Projector(LinearPair):
    """Features (1, rows, columns, dim) to rows (1, rows / factor, columns / factor, out)."""

    def __init__(self, dim: int, out: int, c: Config):
        dim *= c.downsample_factor**2
        super().__init__(dim, c.projector_hidden_size, out, act=c.projector_hidden_act, bias=c.projector_bias)
        if c.projector_use_layernorm:
            self.layer_norm = LayerNorm(dim, 1e-5)
        self._factor = c.downsample_factor

    def __call__(self, x: mx.array) -> mx.array:
        x = fold(x, self._factor)
        return super().__call__(self.layer_norm(x) if "layer_norm" in self else x)


def build(c: Config) -> VisionLanguage:
    decoder, tower, vision = c.halves()
    projector = Projector(vision.hidden_size, decoder.config.hidden_size, c)

    def look(item: Item) -> mx.array:
        h, w = beside(item, "spatial_shapes")[0]
        features = tower(item["pixel_values"][:, : h * w], [(h, w)])
        return projector(mx.unflatten(features, 1, (h, w)))

    sight = Sight(("pixel_values", "spatial_shapes", "pixel_attention_mask"), c.image_token, look)
    return VisionLanguage(tower, decoder, [sight], multi_modal_projector=projector)


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        *names("multi_modal_projector"),
        When(lambda c: not c.projector_use_layernorm, (Drop("^multi_modal_projector.layer_norm"),)),
    ),
    (TextRules(kind="values"),),
    (TextRules(kind="saved"),),
)
