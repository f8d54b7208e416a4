"""Qwen 3 VL with experts, the text half: Qwen 3 MoE whose positions run in three directions that take turns."""

from dataclasses import dataclass

import mlx.core as mx

from ..architecture import Architecture
from ..weights import FUSED_EXPERTS, stacked
from . import qwen3_moe
from .qwen2_vl import NAMES
from .qwen3_vl import DIRECTIONS


@dataclass(kw_only=True)
class Config(qwen3_moe.Config):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 151_936
    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    max_position_embeddings: int = 128_000
    rope_theta: float = 500_000.0
    moe_intermediate_size: int = 1408
    num_experts: int = 60
    num_experts_per_tok: int = 4
    norm_topk_prob: bool = True

    def __post_init__(self):
        self.rope_parameters = {**DIRECTIONS, **(self.rope_parameters or {})}
        super().__post_init__()


def rows_first(weights: dict[str, mx.array], config: Config) -> dict[str, mx.array]:
    """A rule: fused experts (experts, in, out), as released checkpoints have them, to (experts, out, in).

    transformers 5 writes either; the shapes of a layer's two tensors together tell which.
    """
    hidden, inner = config.hidden_size, config.moe_intermediate_size
    out = dict(weights)
    for name, down in weights.items():
        head, found, _ = name.partition(".experts.down_proj")
        up = weights.get(f"{head}.experts.gate_up_proj")
        if not found or up is None or (down.shape[-2:], up.shape[-2:]) != ((inner, hidden), (hidden, 2 * inner)):
            continue
        out[name], out[f"{head}.experts.gate_up_proj"] = down.swapaxes(-1, -2), up.swapaxes(-1, -2)
    return out


EXPERTS = (rows_first, *stacked("gate_proj", "up_proj", "down_proj"), *FUSED_EXPERTS)
ARCHITECTURE = Architecture(Config, qwen3_moe.build, (*NAMES, *EXPERTS))
