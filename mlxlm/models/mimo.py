"""MiMo 7B: Qwen 2, with layers that predict ahead left out."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..weights import Drop
from . import llama, qwen2


@dataclass(kw_only=True)
class Config(qwen2.Config):
    attention_bias: bool = True  # what the releases say of queries, keys and values, which have one anyway

    def __post_init__(self):
        super().__post_init__()
        self.attention_bias = False


ARCHITECTURE = Architecture(Config, partial(llama.build, qkv_bias=True), (Drop("^model.mtp_layers"),))
