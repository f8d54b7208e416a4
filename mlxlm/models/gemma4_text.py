"""Gemma 4, the text half: wide heads in full layers, KV shared by the last layers, inputs for each layer, experts.

Longer than other files: two kinds of heads, experts beside an MLP and inputs of their own meet in one layer.
"""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..kernels import ops
from ..layers import Experts, GatedMLP, RMSNorm, activation, gated, make_rope, softcap, top_k
from ..layers.shared_attention import SharedAttention, owners
from ..per_layer import PerLayerBackbone, PerLayerInput
from ..weights import Split, Suffix
from . import gemma3n


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    vocab_size: int = 262_144
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 30
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    global_head_dim: int = 512
    num_global_key_value_heads: int | None = None
    per_layer_config: dict | None = None  # by layer; stands before the two above
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131_072
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    attention_k_eq_v: bool = False
    sliding_window: int = 512
    layer_types: list[str] | None = None
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: str | None = None  # "vision" is for images alone
    vocab_size_per_layer_input: int = 262_144
    hidden_size_per_layer_input: int = 256
    num_kv_shared_layers: int = 0
    use_double_wide_mlp: bool = False
    enable_moe_block: bool = False
    num_experts: int | None = None
    top_k_experts: int | None = None
    moe_intermediate_size: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.use_bidirectional_attention != "vision":
            recipe.only(self, use_bidirectional_attention=None)
        if self.layer_types:
            self.layer_types = [*self.layer_types[:-1], "full_attention"]  # as the last one always is


def heads(c: Config, i: int, full: bool) -> tuple[int, int]:
    """(KV heads, head_dim) of layer i."""
    kv_heads, head_dim = c.num_key_value_heads, c.head_dim
    if c.per_layer_config is not None:
        own = dict(c.per_layer_config.get(str(i), {}))
        kv_heads, head_dim = own.pop("num_key_value_heads", kv_heads), own.pop("head_dim", head_dim)
        if own:
            problem = "per_layer_config has fields that aren't honoured"
            raise ConfigError(problem, where="config.json", found=", ".join(own))
    elif full:
        head_dim = c.global_head_dim
        kv_heads = c.num_global_key_value_heads or kv_heads if c.attention_k_eq_v else kv_heads
    return kv_heads, head_dim


class Router(nn.Module):
    """Softmaxed scores of normed tokens; each expert's weight has a scale of its own."""

    def __init__(self, dim: int, experts: int, k: int, eps: float):
        super().__init__()
        self.proj = nn.Linear(dim, experts, bias=False)
        self.scale, self.per_expert_scale = mx.ones((dim,)), mx.ones((experts,))
        self._route, self.eps = top_k(k), eps

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        picks, weights = self._route(self.proj(ops.rms_norm(x, self.scale * x.shape[-1] ** -0.5, self.eps)))
        return picks, weights * self.per_expert_scale[picks]


class ExpertsHolder(nn.Module):
    """The experts, a level deeper than elsewhere."""

    def __init__(self, experts: Experts):
        super().__init__()
        self.switch_glu = experts

    def __call__(self, x: mx.array, picks: mx.array, weights: mx.array) -> mx.array:
        return (self.switch_glu(x, picks) * weights[..., None]).sum(-2).astype(x.dtype)


class Layer(PerLayerInput):
    """Norms on either side, experts beside the MLP with norms of their own, the layer's own input, a scale on all."""

    def __init__(self, c: Config, attention: SharedAttention, hidden: int):
        super().__init__()
        dim, eps, glu = c.hidden_size, c.rms_norm_eps, gated(c.hidden_activation)
        self.self_attn, self.mlp = attention, GatedMLP(dim, hidden, glu=glu)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.layer_scalar = mx.ones((1,))
        if c.hidden_size_per_layer_input:
            self.add_input(dim, c.hidden_size_per_layer_input, eps, activation(c.hidden_activation))
        if c.enable_moe_block:
            self.router = Router(dim, c.num_experts or 1, c.top_k_experts or 1, eps)
            self.experts = ExpertsHolder(Experts(dim, c.moe_intermediate_size or 1, c.num_experts or 1, glu=glu))
            self.post_feedforward_layernorm_1 = RMSNorm(dim, eps)
            self.post_feedforward_layernorm_2 = RMSNorm(dim, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(dim, eps)

    def make_cache(self):
        return self.self_attn.make_cache()

    def __call__(self, x: mx.array, cache, step, inputs: mx.array | None = None) -> mx.array:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), cache, step))
        y = self.mlp(self.pre_feedforward_layernorm(x))
        if "router" in self:
            chosen = self.experts(self.pre_feedforward_layernorm_2(x), *self.router(x))
            y = self.post_feedforward_layernorm_1(y) + self.post_feedforward_layernorm_2(chosen)
        x = x + self.post_feedforward_layernorm(y)
        x = x if inputs is None else x + self.with_input(x, inputs)
        return x * self.layer_scalar


def build(c: Config) -> Decoder:
    kinds = recipe.layer_types(
        c, lambda i: "sliding_attention" if (i + 1) % 6 else "full_attention", ("full_attention", "sliding_attention")
    )
    own = owners(kinds, c.num_kv_shared_layers)
    proportional = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0}
    c.rope_parameters = c.rope_parameters or {"full_attention": proportional, "sliding_attention": {}}

    def layer(i: int) -> Layer:
        kv_heads, head_dim = heads(c, i, full := kinds[i] == "full_attention")
        settings = c.rope(kinds[i])
        part = 1.0 if settings["rope_type"] == "proportional" else settings["partial_rotary_factor"]
        attention = SharedAttention(
            c.hidden_size,
            c.num_attention_heads,
            kv_heads,
            head_dim,
            kind=kinds[i],
            owner=own[i],
            rope=make_rope(int(head_dim * part), settings, max_positions=c.max_position_embeddings),
            eps=c.rms_norm_eps,
            window=None if full else c.sliding_window,
            bias=c.attention_bias,
            v_proj=not (full and c.attention_k_eq_v),
        )
        return Layer(c, attention, c.intermediate_size * (2 if c.use_double_wide_mlp and not own[i] else 1))

    finish = partial(softcap, cap=c.final_logit_softcapping) if c.final_logit_softcapping else None
    if not c.hidden_size_per_layer_input:
        return recipe.decoder(c, layer, recipe.norm(c), embed_scale=c.hidden_size**0.5, finish=finish)
    backbone = PerLayerBackbone(
        c.vocab_size,
        c.hidden_size,
        [layer(i) for i in range(c.num_hidden_layers)],
        recipe.norm(c)(),
        rows=c.vocab_size_per_layer_input,
        width=c.hidden_size_per_layer_input,
        eps=c.rms_norm_eps,
    )
    return Decoder(backbone, tied=c.tie_word_embeddings, finish=finish)


NAMES = (
    *gemma3n.NAMES,
    Suffix("experts.gate_up_proj", "experts.switch_glu.gate_up_proj.weight"),
    Suffix("experts.down_proj", "experts.switch_glu.down_proj.weight"),
    Split("switch_glu.gate_up_proj", ("switch_glu.gate_proj", "switch_glu.up_proj")),
)
ARCHITECTURE = Architecture(Config, build, NAMES)
