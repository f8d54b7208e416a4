"""Seed-OSS: Llama with biased queries, keys and values, and a say of its own for the output's bias."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..decoder import Decoder
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    head_dim: int = 128
    attention_bias: bool = True
    attention_out_bias: bool = False
    max_position_embeddings: int = 524_288


def build(c: Config) -> Decoder:
    return llama.build(c, out_bias=c.attention_out_bias)


ARCHITECTURE = Architecture(Config, build)
