"""Qwen 3.5, the text half: Qwen 3 Next's layers, with the delta nets' projections apart, dense or with experts."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import GatedDeltaNet
from ..weights import FUSED_EXPERTS, Drop, Rename, stacked
from . import qwen3_next


@dataclass(kw_only=True)
class Config(qwen3_next.DeltaConfig):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 248_320
    hidden_size: int = 4096
    intermediate_size: int = 12_288
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    attn_output_gate: bool = True
    mtp_num_hidden_layers: int = 0  # layers that only predict ahead; they aren't loaded
    mtp_use_dedicated_embeddings: bool = False

    def __post_init__(self):
        directions = {"mrope_section": [11, 11, 10], "mrope_interleaved": True}
        self.rope_parameters = {**directions, **(self.rope_parameters or {})}
        super().__post_init__()
        recipe.only(self, attn_output_gate=True)


def build(c: Config) -> Decoder:
    block = qwen3_next.blocks(c, GatedDeltaNet, lambda i: recipe.gated_mlp(c))
    return recipe.decoder(c, block, recipe.norm(c))


NAMES = (
    Rename("^model.language_model", "model"),  # beside the vision tower
    Rename("^language_model.model", "model"),  # as mlx-lm writes it
    Rename("^language_model.lm_head", "lm_head"),
    Drop("^mtp"),
    Drop("^vision_tower"),
    Drop("^model.visual"),
    *stacked("gate_proj", "up_proj", "down_proj"),
    *FUSED_EXPERTS,
)
ARCHITECTURE = Architecture(Config, build, NAMES, qwen3_next.VALUES)
