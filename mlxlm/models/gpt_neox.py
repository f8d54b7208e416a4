"""GPT-NeoX and Pythia: attention and MLP side by side, each off a LayerNorm of its own, and partly rotated heads."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import MLP, LayerNorm, PreNorm, activation
from ..weights import QKV, Drop, Rename, Split, backwards, qkv_rows


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "gelu"
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.25
    rotary_pct: float | None = None  # older words for the two settings of the rope
    rotary_emb_base: float | None = None
    use_parallel_residual: bool = True
    attention_bias: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.rotary_pct is not None:
            self.partial_rotary_factor = self.rotary_pct
        if self.rotary_emb_base is not None:
            self.rope_theta = self.rotary_emb_base


class TwoNorms(PreNorm):
    """x + mix(norm(x)) + mlp(other_norm(x))."""

    def __call__(self, x, cache, step):
        mixer, mlp, before, beside = (self[name] for name in self._names)
        return x + mixer(before(x), cache, step) + mlp(beside(x))


def build(c: Config) -> Decoder:
    norm, rope, act = recipe.norm(c, LayerNorm), recipe.rope(c), activation(c.hidden_act)
    shape = TwoNorms if c.use_parallel_residual else PreNorm

    def block(i: int) -> PreNorm:
        attention = recipe.attention(c, rope=rope, bias=c.attention_bias)
        return shape(attention, MLP(c.hidden_size, c.intermediate_size, act=act, bias=True), norm)

    return recipe.decoder(c, block, norm)


BODY = (
    Rename("^model.h", "model.layers"),
    Rename("^model.embed_in", "model.embed_tokens"),
    Rename("^model.final_layer_norm", "model.norm"),
    Rename("^model.embed_out", "lm_head"),
    Rename("layers.*.attention", "layers.*.self_attn"),
    Rename("self_attn.dense", "self_attn.o_proj"),
    Rename("mlp.dense_h_to_4h", "mlp.up_proj"),
    Rename("mlp.dense_4h_to_h", "mlp.down_proj"),
)
FUSED = Split("query_key_value", QKV, rows=qkv_rows)
NAMES = (
    Rename("^gpt_neox", "model"),
    Rename("^embed_out", "lm_head"),
    *BODY,
    Drop("self_attn.bias"),  # buffers that hold the causal mask
    Drop("self_attn.masked_bias"),
    FUSED,
)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*BODY, FUSED))
