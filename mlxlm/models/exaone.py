"""EXAONE 3 and 3.5: Llama under GPT-2's names."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..weights import GPT_BODY, GPT_NAMES, Rename, backwards
from . import llama


@dataclass(kw_only=True)
class Config(llama.Config):
    rms_norm_eps: float = 1e-5


OWN = (
    Rename("layers.*.attn.attention", "layers.*.self_attn"),
    Rename("self_attn.out_proj", "self_attn.o_proj"),
    Rename("mlp.c_fc_0", "mlp.gate_proj"),
    Rename("mlp.c_fc_1", "mlp.up_proj"),
    Rename("mlp.c_proj", "mlp.down_proj"),
)
SAVED = backwards(Rename("^transformer", "model"), *GPT_BODY, *OWN)
ARCHITECTURE = Architecture(Config, llama.build, (*GPT_NAMES, *OWN), saved=SAVED)
