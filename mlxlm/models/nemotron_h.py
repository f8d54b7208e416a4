"""Nemotron-H: one mixer a layer, spelled by a pattern: M Mamba 2, * attention without positions, - MLP, E experts."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..layers import (
    MLP,
    ExpertsMLP,
    LatentMoE,
    Mamba2,
    MixerOnly,
    RMSNorm,
    SparseMoE,
    activation,
)
from ..weights import Drop, Each, Rename, Stack, Suffix, conv1d_to_mlx

LETTERS = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*", "mlp": "-", "moe": "E"}


@dataclass(kw_only=True)
class Config(DecoderConfig):
    UNREAD = frozenset({"norm_eps", "rms_norm_eps"})  # layer_norm_epsilon is the one that is read

    mamba_num_heads: int
    mamba_head_dim: int
    ssm_state_size: int
    conv_kernel: int
    n_groups: int
    hybrid_override_pattern: str | list[str] = ""
    layers_block_type: list[str] | None = None
    layer_types: list[str] | None = None
    num_hidden_layers: int = 1  # the pattern says
    layer_norm_epsilon: float = 1e-5
    attention_bias: bool = False
    use_bias: bool | None = None  # of the Mamba projections; mamba_proj_bias counts where it is missing
    mamba_proj_bias: bool = False
    use_conv_bias: bool = True
    mlp_bias: bool = False
    mlp_hidden_act: str = "relu2"
    mamba_hidden_act: str = "silu"
    time_step_min: float = 0.001
    time_step_limit: tuple[float, ...] | None = None
    expand: float | None = None  # not used: heads times head_dim is the inner size
    moe_intermediate_size: int = 0
    moe_shared_expert_intermediate_size: int = 0
    moe_latent_size: int | None = None
    n_routed_experts: int = 0
    n_shared_experts: int | None = 1
    num_experts_per_tok: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0

    def __post_init__(self):
        kinds = self.layers_block_type or self.layer_types
        pattern = self.hybrid_override_pattern
        if not pattern and kinds:
            pattern = [LETTERS.get(kind, kind) for kind in kinds]
        if not pattern:
            raise ConfigError(
                "nothing says which layers the model has",
                where="config.json",
                expected="hybrid_override_pattern or layers_block_type",
            )
        self.hybrid_override_pattern = list(pattern)
        self.num_hidden_layers = len(pattern)
        super().__post_init__()


def build(c: Config) -> Decoder:
    act = activation(c.mlp_hidden_act)

    def mamba():
        return Mamba2(
            c.hidden_size,
            c.mamba_num_heads,
            c.mamba_head_dim,
            state=c.ssm_state_size,
            groups=c.n_groups,
            conv=c.conv_kernel,
            eps=c.layer_norm_epsilon,
            bias=c.mamba_proj_bias if c.use_bias is None else c.use_bias,
            conv_bias=c.use_conv_bias,
            act=activation(c.mamba_hidden_act),
            dt_limit=(c.time_step_min, float("inf")),
        )

    def attention():
        return recipe.attention(c, bias=c.attention_bias)

    def mlp(hidden: int = c.intermediate_size):
        return MLP(c.hidden_size, hidden, act=act, bias=c.mlp_bias)

    def moe():
        width = c.moe_latent_size or c.hidden_size
        experts = ExpertsMLP(width, c.moe_intermediate_size, c.n_routed_experts, act=act)
        shared = mlp(c.moe_shared_expert_intermediate_size) if c.n_shared_experts else None
        if c.moe_latent_size:
            return LatentMoE(recipe.grouped_gate(c), experts, shared, c.hidden_size, width, bias=c.mlp_bias)
        return SparseMoE(recipe.grouped_gate(c), experts, shared)

    mixers = {"M": mamba, "*": attention, "-": mlp, "E": moe}
    if strange := sorted({str(p) for p in c.hybrid_override_pattern} - set(mixers)):
        raise ConfigError(
            "no layer is spelled so",
            where="config.json",
            found=", ".join(strange),
            expected="M, *, - or E in hybrid_override_pattern",
        )

    def norm():
        return RMSNorm(c.hidden_size, c.layer_norm_epsilon)

    return recipe.decoder(
        c,
        lambda i: MixerOnly(mixers[c.hybrid_override_pattern[i]](), norm()),
        norm,
        names=("embeddings", "norm_f"),
        body="backbone",
    )


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        Drop("^mtp"),
        Rename("^model", "backbone"),
        Rename("^backbone.embed_tokens", "backbone.embeddings"),
        Rename("^backbone.norm", "backbone.norm_f"),
        Stack("mixer.experts.*.up_proj", "mixer.switch_mlp.fc1"),
        Stack("mixer.experts.*.down_proj", "mixer.switch_mlp.fc2"),
        Suffix("mixer.experts.up_proj", "mixer.switch_mlp.fc1.weight"),
        Suffix("mixer.experts.down_proj", "mixer.switch_mlp.fc2.weight"),
    ),
    (Each("conv1d.weight", conv1d_to_mlx),),
)
