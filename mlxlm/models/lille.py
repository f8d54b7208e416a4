"""Lille 130M: Llama with interleaved rope and a tied head, its norms inside the layers that they come before."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..weights import FUSED_QKV, Rename, backwards
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    rms_norm_eps: float = 1e-5
    block_size: int = 512
    tie_word_embeddings: bool = True

    def __post_init__(self):
        self.max_position_embeddings = self.block_size
        self.intermediate_size = 256 * round(int(8 * self.hidden_size / 3) / 256)
        super().__post_init__()


NAMES = (
    Rename("^transformer", "model"),
    Rename("^model.tok_embeddings", "model.embed_tokens"),
    Rename("layers.*.attention.norm", "layers.*.input_layernorm"),
    Rename("layers.*.feed_forward.norm", "layers.*.post_attention_layernorm"),
    Rename("layers.*.attention", "layers.*.self_attn"),
    Rename("layers.*.feed_forward", "layers.*.mlp"),
    Rename("self_attn.out_proj", "self_attn.o_proj"),
    FUSED_QKV,
)
ARCHITECTURE = Architecture(Config, partial(llama.build, interleaved=True), NAMES, saved=backwards(*NAMES))
