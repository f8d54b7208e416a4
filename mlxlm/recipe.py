"""The usual reading of the usual config fields, so that a model file says only what is its own."""

from collections.abc import Callable, Sequence
from functools import partial

import mlx.nn as nn

from .config import DecoderConfig
from .decoder import Backbone, Decoder
from .errors import ConfigError
from .layers import Attention, Experts, GatedMLP, GroupedGate, Mamba2, RMSNorm, SparseMoE, activation, gated, make_rope


def attention(c: DecoderConfig, kind: Callable[..., Attention] = Attention, **parts) -> Attention:
    """Attention of a ``kind`` with the config's heads."""
    return kind(c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, **parts)


def gated_mlp(
    c: DecoderConfig, hidden: int | None = None, *, kind: Callable[..., GatedMLP] = GatedMLP, **parts
) -> GatedMLP:
    """A gated MLP of a ``kind`` with the config's activation."""
    return kind(c.hidden_size, hidden or c.intermediate_size, **{"glu": gated(c.hidden_act), **parts})


def norm(c: DecoderConfig, kind: Callable = RMSNorm) -> Callable:
    """Makes norms over the hidden size."""
    return partial(kind, c.hidden_size, c.rms_norm_eps)


def mamba2(c, **parts) -> Mamba2:
    """A Mamba 2 mixer from the fields ``mamba_n_heads``, ``mamba_d_head`` and so on."""
    return Mamba2(
        c.hidden_size,
        c.mamba_n_heads,
        int(c.mamba_d_head),
        state=c.mamba_d_state,
        groups=c.mamba_n_groups,
        conv=c.mamba_d_conv,
        eps=c.rms_norm_eps,
        bias=c.mamba_proj_bias,
        conv_bias=c.mamba_conv_bias,
        act=activation(c.hidden_act),
        dt_limit=(c.time_step_limit[0], c.time_step_limit[1]),
        **parts,
    )


def rope(c: DecoderConfig, layer_type: str | None = None, *, dims: int | None = None, interleaved: bool = False):
    """The config's own rope for a kind of layer; every layer of that kind may share it, it has no weights."""
    settings = c.rope(layer_type)
    turned = dims if dims is not None else int(c.head_dim * settings.get("partial_rotary_factor", 1.0))
    return make_rope(turned, settings, max_positions=c.max_position_embeddings, interleaved=interleaved)


def layer_types(c: DecoderConfig, default: Callable[[int], str], known: Sequence[str]) -> list[str]:
    """``layer_types`` as the config says, or by ``default(i)``; checked for length and kind."""
    given = getattr(c, "layer_types", None)
    types = given if given is not None else [default(i) for i in range(c.num_hidden_layers)]
    if len(types) != c.num_hidden_layers:
        raise ConfigError(
            "layer_types must name every layer",
            where="config.json",
            found=f"{len(types)} entries",
            expected=f"{c.num_hidden_layers}",
        )
    if strange := sorted({str(t) for t in types} - set(known)):
        raise ConfigError(
            "layer_types has kinds that this model doesn't have",
            where="config.json",
            found=", ".join(strange),
            expected=f"only {', '.join(known)}",
        )
    return types


def decoder(
    c: DecoderConfig,
    block: Callable,
    final_norm: Callable,
    *,
    embed_scale: float = 1.0,
    finish: Callable | None = None,
    names: tuple[str, str] = ("embed_tokens", "norm"),
    body: str = "model",
    backbone: Callable[..., Backbone] = Backbone,
    kind: type[Decoder] = Decoder,
) -> Decoder:
    """``block(i)`` for each layer i, between an embedding and a head; ``backbone`` and ``kind`` make other ones."""
    layers = [block(i) for i in range(c.num_hidden_layers)]
    inner = backbone(c.vocab_size, c.hidden_size, layers, final_norm(), embed_scale=embed_scale, names=names)
    return kind(inner, tied=c.tie_word_embeddings, finish=finish, body=body)


def routed_moe(c: DecoderConfig, experts: int, hidden: int, route: Callable) -> SparseMoE:
    """Experts of ``hidden`` width behind a linear gate whose logits ``route`` reads."""
    gate = nn.Linear(c.hidden_size, experts, bias=False)
    return SparseMoE(gate, Experts(c.hidden_size, hidden, experts, glu=gated(c.hidden_act)), route=route)


def grouped_gate(c) -> GroupedGate:
    """DeepSeek V3's gate from the fields that name it. Raises ConfigError for groups that don't come out even."""
    if c.n_group < 1 or c.n_routed_experts % c.n_group or not 0 < c.topk_group <= c.n_group:
        raise ConfigError(
            "n_routed_experts can't be put into n_group groups of which topk_group stay",
            where="config.json",
            found=f"{c.n_routed_experts}, {c.n_group}, {c.topk_group}",
        )
    return GroupedGate(
        c.hidden_size,
        c.n_routed_experts,
        c.num_experts_per_tok,
        groups=c.n_group,
        keep_groups=c.topk_group,
        normalise=c.norm_topk_prob,
        scale=c.routed_scaling_factor,
    )


def grouped_moe(c) -> SparseMoE:
    """DeepSeek V3's experts from the fields that name them: a grouped gate, and shared experts as one wider MLP."""
    experts = Experts(c.hidden_size, c.moe_intermediate_size, c.n_routed_experts, glu=gated(c.hidden_act))
    shared = gated_mlp(c, c.moe_intermediate_size * c.n_shared_experts) if c.n_shared_experts else None
    return SparseMoE(grouped_gate(c), experts, shared)


def only(c: DecoderConfig, **values) -> None:
    """Raise unless each field holds the one value that this model is written for."""
    for name, value in values.items():
        if getattr(c, name) != value:
            raise ConfigError(
                f"{name} is not supported for {c.model_type!r}",
                where="config.json",
                found=repr(getattr(c, name)),
                expected=repr(value),
            )
