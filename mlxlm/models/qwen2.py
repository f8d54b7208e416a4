"""Qwen 2: Llama with biased queries, keys and values, and windows from some layer on."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    max_window_layers: int = 28

    def __post_init__(self):
        super().__post_init__()
        if self.layer_types is None and self.sliding_window is not None:
            full = min(self.max_window_layers, self.num_hidden_layers)
            rest = self.num_hidden_layers - full
            self.layer_types = ["full_attention"] * full + ["sliding_attention"] * rest


ARCHITECTURE = Architecture(Config, partial(llama.build, qkv_bias=True))
