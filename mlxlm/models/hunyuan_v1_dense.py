"""Hunyuan, dense: Llama with norms on queries and keys after the rope, whose base a fixed factor stretches."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import LateNormAttention, PreNorm, RMSNorm
from ..weights import Rename, backwards
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    rms_norm_eps: float = 1e-5
    use_qk_norm: bool = True
    attention_head_dim: int | None = None  # head_dim, said again
    norm_type: str = "hf_rms"
    use_rotary_pos_emb: bool = True
    org_vocab_size: int | None = None
    use_cla: bool = False
    cla_share_factor: int = 1  # counts with use_cla only

    def __post_init__(self):
        self.head_dim = self.head_dim or self.attention_head_dim or 0
        super().__post_init__()
        recipe.only(self, use_rotary_pos_emb=True, use_cla=False, sliding_window=None, layer_types=None)
        settings = self.rope_parameters or {}
        if settings.get("rope_type") == "dynamic" and settings.get("alpha"):
            stretch = settings["alpha"] ** (self.head_dim / (self.head_dim - 2))
            base = settings.get("rope_theta", self.rope_theta) * stretch
            self.rope_parameters = {"rope_type": "default", "rope_theta": base}


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            LateNormAttention,
            rope=rope,
            q_norm=RMSNorm(c.head_dim, c.rms_norm_eps) if c.use_qk_norm else None,
            k_norm=RMSNorm(c.head_dim, c.rms_norm_eps) if c.use_qk_norm else None,
            bias=c.attention_bias,
        )
        return PreNorm(attention, recipe.gated_mlp(c, bias=c.mlp_bias), norm)

    return recipe.decoder(c, block, norm)


NAMES = (
    Rename("self_attn.query_layernorm", "self_attn.q_norm"),
    Rename("self_attn.key_layernorm", "self_attn.k_norm"),
)
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(*NAMES))
