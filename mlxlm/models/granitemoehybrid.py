"""Granite 4: Mamba 2 or attention, then a shared MLP with or without experts beside it; Granite's four multipliers."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from ..layers import Experts, PreNorm, SparseMoE, gated, top_k
from ..layers.mlp import Glu
from ..weights import Each, Rename, Split, Suffix, When, conv1d_to_mlx
from . import granite

KINDS = {"mamba": "linear_attention", "attention": "full_attention"}  # old names of layer types


@dataclass(kw_only=True)
class Config(granite.Config):
    UNREAD = frozenset({"normalization_function", "init_method", "time_step_min"})

    layer_types: list[str] | None = None
    layers_block_type: list[str] | None = None
    shared_intermediate_size: int = 1024
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    position_embedding_type: str | None = None
    mamba_n_heads: int = 128
    mamba_n_groups: int = 1
    mamba_d_state: int = 256
    mamba_d_head: int | str = "auto"
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: tuple[float, ...] = (0.0, float("inf"))

    def __post_init__(self):
        super().__post_init__()
        if self.mamba_d_head == "auto":
            self.mamba_d_head = self.mamba_expand * self.hidden_size // self.mamba_n_heads
        if kinds := self.layer_types or self.layers_block_type:
            self.layer_types = [KINDS.get(kind, kind) for kind in kinds]


class FusedMLP(nn.Module):
    """A gated MLP whose gate and up projections are one."""

    def __init__(self, dim: int, hidden: int, glu: Glu):
        super().__init__()
        self.input_linear = nn.Linear(dim, 2 * hidden, bias=False)
        self.output_linear = nn.Linear(hidden, dim, bias=False)
        self._glu = glu

    def __call__(self, x: mx.array) -> mx.array:
        return self.output_linear(self._glu(*mx.split(self.input_linear(x), 2, axis=-1)))


class Router(nn.Module):
    """The gate, a level deeper than elsewhere."""

    def __init__(self, dim: int, experts: int):
        super().__init__()
        self.layer = nn.Linear(dim, experts, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.layer(x)


class Layer(PreNorm):
    """The usual shape, with experts beside the MLP."""

    def __init__(self, mixer, mlp, moe: SparseMoE, norm, **rest):
        super().__init__(mixer, mlp, norm, **rest)
        self.block_sparse_moe = moe

    def feed(self, x: mx.array) -> mx.array:
        return super().feed(x) + self.block_sparse_moe(x)


def build(c: Config) -> Decoder:
    norm, glu = recipe.norm(c), gated(c.hidden_act)
    rope = recipe.rope(c) if c.position_embedding_type == "rope" else None
    kinds = recipe.layer_types(c, lambda i: "linear_attention", tuple(KINDS.values()))

    def block(i: int) -> PreNorm:
        if full := kinds[i] == "full_attention":
            mixer = recipe.attention(c, rope=rope, scale=c.attention_multiplier, bias=c.attention_bias)
        else:
            mixer = recipe.mamba2(c)
        name = "self_attn" if full else "mamba"
        if not c.num_local_experts:
            mlp = recipe.gated_mlp(c, c.shared_intermediate_size, bias=c.mlp_bias)
            return PreNorm(mixer, mlp, norm, residual=c.residual_multiplier, names=(name, *PreNorm.NAMES[1:]))
        experts = Experts(c.hidden_size, c.intermediate_size, c.num_local_experts, glu=glu)
        router, route = Router(c.hidden_size, c.num_local_experts), top_k(c.num_experts_per_tok, softmax_first=False)
        moe = SparseMoE(router, experts, route=route, names=("router", "switch_mlp"))
        shared = FusedMLP(c.hidden_size, c.shared_intermediate_size, glu)
        names = (name, "shared_mlp", *PreNorm.NAMES[2:])
        return Layer(mixer, shared, moe, norm, residual=c.residual_multiplier, names=names)

    return recipe.decoder(
        c, block, norm, embed_scale=c.embedding_multiplier, finish=lambda logits: logits / c.logits_scaling
    )


DENSE = (
    Rename("shared_mlp.input_linear", "mlp.gate_up_proj"),
    Rename("shared_mlp.output_linear", "mlp.down_proj"),
    Split("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
)
NAMES = (
    When(lambda c: not c.num_local_experts, DENSE),
    Suffix("block_sparse_moe.router.weight", "block_sparse_moe.router.layer.weight"),
    Suffix("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.switch_mlp.gate_up_proj.weight"),
    Suffix("block_sparse_moe.experts.down_proj", "block_sparse_moe.switch_mlp.down_proj.weight"),
    Rename("block_sparse_moe.input_linear", "block_sparse_moe.switch_mlp.gate_up_proj"),
    Rename("block_sparse_moe.output_linear", "block_sparse_moe.switch_mlp.down_proj"),
    Split("switch_mlp.gate_up_proj", ("switch_mlp.gate_proj", "switch_mlp.up_proj")),
)
ARCHITECTURE = Architecture(Config, build, NAMES, (Each("conv1d.weight", conv1d_to_mlx),))
