"""StarCoder and SantaCoder: GPT-2 with one key and value for all heads, and weights that lie as usual."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..weights import QKV, Rename, Split, backwards, qkv_rows
from . import gpt2


@dataclass(kw_only=True)
class Config(gpt2.Config):
    hidden_act: str = "gelu_pytorch_tanh"
    multi_query: bool = True

    def __post_init__(self):
        self.num_key_value_heads = 1 if self.multi_query else self.num_attention_heads
        super().__post_init__()


FUSED = Split("c_attn", QKV, rows=qkv_rows)
SAVED = backwards(Rename("^transformer", "model"), *gpt2.BODY, FUSED)
ARCHITECTURE = Architecture(Config, gpt2.build, (*gpt2.NAMES, FUSED), saved=SAVED)
