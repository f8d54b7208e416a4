"""ERNIE 4.5 with experts: softmaxed over all, a bias steers the choice, shared ones work beside them."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import BiasedMoE, Experts, PreNorm, gated
from ..weights import FUSED_EXPERTS, Drop, Rename, stacked
from . import ernie4_5


@dataclass(kw_only=True)
class Config(ernie4_5.Config):
    head_dim: int | None = None
    moe_intermediate_size: int = 1536
    moe_num_experts: int = 64
    moe_num_shared_experts: int = 2
    moe_k: int = 6
    moe_layer_start_index: int | list[int] = 1
    moe_layer_end_index: int | list[int] | None = None
    moe_layer_interval: int = 1
    moe_norm_min: float = 1e-12
    moe_gate_act: str = "softmax"
    moe_gate: str = "topk"
    moe_use_aux_free: bool = True
    moe_capacity: list[int] | None = None  # counts in training only

    def __post_init__(self):
        super().__post_init__()
        recipe.only(self, moe_gate="topk", moe_gate_act="softmax", use_bias=False)

    def sparse(self, i: int) -> bool:
        """Whether layer i has experts."""
        start, end = self.moe_layer_start_index, self.moe_layer_end_index
        start = min(start) if isinstance(start, list) else start
        end = max(end) if isinstance(end, list) else self.num_hidden_layers - 1 if end is None or end < 0 else end
        return (i + 1) % self.moe_layer_interval == 0 and start <= i <= end


class SoftmaxMoE(BiasedMoE):
    """Experts chosen by softmaxed scores and a bias that only steers the choice."""

    def pick(self, x: mx.array) -> tuple[mx.array, mx.array]:
        scores = mx.softmax(self["gate"](x).astype(mx.float32), axis=-1, precise=True)
        return self._pick(scores, self["e_score_correction_bias"])


def moe(c: Config) -> SoftmaxMoE:
    shared = c.moe_intermediate_size * c.moe_num_shared_experts
    return SoftmaxMoE(
        nn.Linear(c.hidden_size, c.moe_num_experts, bias=False),
        Experts(c.hidden_size, c.moe_intermediate_size, c.moe_num_experts, glu=gated(c.hidden_act)),
        recipe.gated_mlp(c, shared) if shared else None,
        k=c.moe_k,
        bias="e_score_correction_bias",
        eps=c.moe_norm_min,
    )


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c, interleaved=True)

    def block(i: int) -> PreNorm:
        return PreNorm(recipe.attention(c, rope=rope), moe(c) if c.sparse(i) else recipe.gated_mlp(c), norm)

    return recipe.decoder(c, block, norm)


def absent_bias(weights: dict[str, mx.array], config: Config) -> dict[str, mx.array]:
    """A rule: mlx-lm drops the steering bias, so what it converted chooses without one."""
    out = dict(weights)
    for i in range(config.num_hidden_layers):
        name = f"model.layers.{i}.mlp.e_score_correction_bias"
        if config.sparse(i):
            out[name] = out[name].reshape(-1) if name in out else mx.zeros((config.moe_num_experts,))
    return out


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        *(Drop(f"mtp_{part}") for part in ("block", "linear_proj", "hidden_norm", "emb_norm")),
        Rename("mlp.gate.moe_statics", "mlp.moe_statics"),
        Rename("mlp.moe_statics.e_score_correction_bias", "mlp.e_score_correction_bias"),
        absent_bias,
        *stacked("gate_proj", "up_proj", "down_proj"),
        *FUSED_EXPERTS,
    ),
)
