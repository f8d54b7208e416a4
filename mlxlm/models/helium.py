"""Helium: Llama with interleaved rope."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    rms_norm_eps: float = 1e-8
    rope_theta: float = 100_000.0
    max_position_embeddings: int = 4096


ARCHITECTURE = Architecture(Config, partial(llama.build, interleaved=True, out_bias=False))
