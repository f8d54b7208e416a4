"""Qwen 3: Llama with a norm on every query and key."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..layers import RMSNorm
from . import llama, qwen2


@dataclass(kw_only=True)
class Config(qwen2.Config):
    head_dim: int = 128


ARCHITECTURE = Architecture(Config, partial(llama.build, head_norm=RMSNorm))
