"""DeepSeek-OCR's encoder: SAM's features at a quarter of its grid are CLIP's patches, and stay beside its output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..config import read
from ..errors import ConfigError
from ..layers import LayerNorm
from .clip import ClipConfig
from .convs import Conv
from .sam import Sam, SamConfig, resized, through
from .vit import encoder

CLIP, SAM = "clip-l-14-224", "sam_vit_b"


@dataclass(kw_only=True)
class EncoderConfig:
    """``width`` has the sizes of both, under the makers' names; what it leaves out is that of the released model."""

    UNREAD = frozenset({"image_size", "mlp_ratio", "params", "cls", "layers", "hidden_size", "intermediate_size",
                        "num_attention_heads", "patch_size", "num_channels", "layer_norm_eps"})  # fmt: skip

    model_name: str = "deeplip_b_l"
    width: Any = None

    def __post_init__(self):
        if self.model_name != "deeplip_b_l":
            raise ConfigError("this encoder is not known", where="config.json, vision_config",
                              found=repr(self.model_name)[:60], expected="deeplip_b_l")

    def _part(self, name: str) -> dict[str, Any]:
        found = self.width.get(name) if isinstance(self.width, Mapping) else None
        return dict(found or {})

    @property
    def clip(self) -> ClipConfig:
        w = self._part(CLIP)
        dim = w.get("width", 1024)
        sizes = {"hidden_size": dim, "intermediate_size": 4 * dim, "num_hidden_layers": w.get("layers", 24),
                 "num_attention_heads": w.get("heads", 16), "image_size": w.get("image_size", 224),
                 "patch_size": w.get("patch_size", 14)}  # fmt: skip
        return read(ClipConfig, sizes, "config.json, vision_config")

    @property
    def sam(self) -> SamConfig:
        w = self._part(SAM)
        sizes = {"hidden_size": w.get("width", 768), "num_hidden_layers": w.get("layers", 12),
                 "num_attention_heads": w.get("heads", 12)}  # fmt: skip
        more = {k: v for k, v in w.items() if k not in ("width", "layers", "heads", "downsample_channels")}
        return read(SamConfig, {**sizes, **more}, "config.json, vision_config")

    @property
    def channels(self) -> list[int]:
        """Of the two convolutions after SAM."""
        return list(self._part(SAM).get("downsample_channels") or [512, 1024])


class SmallerSam(Sam):
    """SAM and two convolutions that halve its grid."""

    def __init__(self, c: SamConfig, channels: list[int]):
        super().__init__(c)
        self.net_2 = Conv(c.output_channels, channels[0], 3, 2, bias=False)
        self.net_3 = Conv(channels[0], channels[1], 3, 2, bias=False)

    def __call__(self, pixels: mx.array) -> mx.array:
        return through([self.net_2, self.net_3], super().__call__(pixels))


class Embeddings(nn.Module):
    """The class token and given patches, each with its learned position."""

    def __init__(self, c: ClipConfig):
        super().__init__()
        self.class_embedding = mx.zeros((c.hidden_size,))
        self.position_embedding = nn.Embedding(c.side**2 + 1, c.hidden_size)
        self._side = c.side

    def __call__(self, x: mx.array) -> mx.array:
        """(N, rows, columns, dim) to (N, 1 + patches, dim)."""
        n, side, _, dim = x.shape
        table = self.position_embedding(mx.arange(self._side**2 + 1))
        places = resized(table[1:].reshape(self._side, self._side, dim), side).reshape(side * side, dim)
        first = mx.broadcast_to(self.class_embedding + table[0], (n, 1, dim))
        return mx.concatenate([first.astype(x.dtype), x.flatten(1, 2) + places.astype(x.dtype)], axis=1)


class PatchlessClip(nn.Module):
    """CLIP whose patches come from elsewhere."""

    def __init__(self, c: ClipConfig):
        super().__init__()
        self.embeddings, self.transformer = Embeddings(c), encoder(c)
        self.pre_layrnorm = LayerNorm(c.hidden_size, c.layer_norm_eps)  # spelled as in every checkpoint

    def __call__(self, x: mx.array) -> mx.array:
        return self.transformer(self.pre_layrnorm(self.embeddings(x)))[-1][:, 1:]


class Encoder(nn.Module):
    """Square images (N, 3, H, W) to features (N, rows, columns, CLIP's and SAM's channels)."""

    def __init__(self, c: EncoderConfig):
        super().__init__()
        self.sam_model, self.vision_model = SmallerSam(c.sam, c.channels), PatchlessClip(c.clip)
        self.width = c.clip.hidden_size + c.channels[1]

    def __call__(self, pixels: mx.array) -> mx.array:
        seen = self.sam_model(pixels.astype(self.sam_model.pos_embed.dtype))
        return mx.concatenate([self.vision_model(seen).reshape(*seen.shape[:3], -1), seen], axis=-1)
