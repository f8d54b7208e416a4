"""InternLM 2 and 2.5: Llama under other names, with queries, keys and values in one tensor, group by group."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..weights import QKV, Rename, Split, backwards, qkv_rows
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    bias: bool = False

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, attention_bias=False, mlp_bias=False, sliding_window=None, layer_types=None)
        self.attention_bias = self.bias


NAMES = (
    Rename("^model.tok_embeddings", "model.embed_tokens"),
    Rename("^output", "lm_head"),
    Rename("layers.*.attention", "layers.*.self_attn"),
    Rename("layers.*.attention_norm", "layers.*.input_layernorm"),
    Rename("layers.*.ffn_norm", "layers.*.post_attention_layernorm"),
    Rename("layers.*.feed_forward", "layers.*.mlp"),
    *(Rename(f"mlp.w{i}", f"mlp.{part}_proj") for i, part in ((1, "gate"), (3, "up"), (2, "down"))),
    Rename("self_attn.wo", "self_attn.o_proj"),
    Split("wqkv", QKV, rows=qkv_rows),
)
ARCHITECTURE = Architecture(Config, llama.build, NAMES, saved=backwards(*NAMES))
