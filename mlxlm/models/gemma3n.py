"""Gemma 3n, the text half: parallel streams mixed by AltUp, low-rank residuals, inputs for each layer, shared KV.

Longer than other files, as nearly nothing in this model is shaped like the rest.
"""

import re
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import ConfigError
from ..layers import GatedMLP, RMSNorm, activation, gated, softcap
from ..layers.altup import AltUp, Laurel, sparse
from ..layers.shared_attention import SharedAttention, owners
from ..per_layer import PerLayerBackbone, PerLayerInput
from ..weights import Drop, Rename


@dataclass(kw_only=True)
class Config(DecoderConfig):
    # The defaults are transformers': a multimodal config.json leaves out what equals them.
    UNREAD = frozenset({"altup_coef_clip", "audio_soft_tokens_per_image", "vision_soft_tokens_per_image"})

    vocab_size: int = 262_400
    hidden_size: int = 2048
    intermediate_size: int | list[int] = 16_384
    num_hidden_layers: int = 35
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 32_768
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    sliding_window: int = 512
    layer_types: list[str] | None = None
    final_logit_softcapping: float | None = 30.0
    vocab_size_per_layer_input: int = 262_144
    hidden_size_per_layer_input: int = 256
    altup_active_idx: int = 0
    altup_correct_scale: bool = True
    altup_num_inputs: int = 4
    num_kv_shared_layers: int = 15
    laurel_rank: int = 64
    activation_sparsity_pattern: list[float] | None = None

    def __post_init__(self):
        super().__post_init__()
        n = self.num_hidden_layers
        if self.activation_sparsity_pattern is None:
            self.activation_sparsity_pattern = [0.95 if n > 10 and i < 10 else 0.0 for i in range(n)]
        if not isinstance(self.intermediate_size, list):
            self.intermediate_size = [self.intermediate_size] * n
        if not len(self.activation_sparsity_pattern) == len(self.intermediate_size) == n:
            problem = "intermediate_size and activation_sparsity_pattern need an entry for each layer"
            raise ConfigError(problem, where="config.json", expected=n)


def ropes(c: DecoderConfig) -> dict:
    """A rope for either kind of layer, whose bases differ where the config says nothing."""
    settings = c.rope_parameters or {}
    if not {"full_attention", "sliding_attention"} & settings.keys():
        settings = {"full_attention": settings}
    full = {"rope_theta": 1_000_000.0, **settings.get("full_attention", {})}
    near = {"rope_type": "default", "rope_theta": 10_000.0, **settings.get("sliding_attention", {})}
    c.rope_parameters = {"full_attention": full, "sliding_attention": near}
    return {kind: recipe.rope(c, kind) for kind in ("full_attention", "sliding_attention")}


class Layer(PerLayerInput):
    """AltUp around a block with norms on either side, Laurel beside the attention, then the layer's own input."""

    def __init__(self, c: Config, attention: SharedAttention, mlp: GatedMLP):
        super().__init__()
        dim, eps = c.hidden_size, c.rms_norm_eps
        self.self_attn, self.mlp = attention, mlp
        self.altup = AltUp(dim, c.altup_num_inputs, c.altup_active_idx, eps)
        self.laurel = Laurel(dim, c.laurel_rank, eps)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.add_input(dim, c.hidden_size_per_layer_input, eps, activation(c.hidden_activation))
        self._scales = c.altup_correct_scale

    def make_cache(self):
        return self.self_attn.make_cache()

    def __call__(self, streams: mx.array, cache, step, inputs: mx.array) -> mx.array:
        predicted = self.altup.predict(streams)
        x = predicted[self.altup.active]
        h = self.input_layernorm(x)
        x = x + self.post_attention_layernorm(self.self_attn(h, cache, step))
        x = (x + self.laurel(h)) * 2**-0.5
        x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        streams = self.altup.correct(predicted, x)
        first = streams[self.altup.active]
        first = first * self.altup.correct_output_scale if self._scales else first
        return mx.concatenate([streams[:1], streams[1:] + self.with_input(first, inputs)])


class Streams(PerLayerBackbone):
    """Makes the streams from the embeddings by projections of equal size, and one of them in the end."""

    def __init__(self, vocab: int, dim: int, *rest, streams: int, **more):
        super().__init__(vocab, dim, *rest, **more)
        self.altup_projections = [nn.Linear(dim, dim, bias=False) for _ in range(streams - 1)]
        self.altup_unembed_projections = [nn.Linear(dim, dim, bias=False) for _ in range(streams - 1)]

    def widened(self, x: mx.array) -> mx.array:
        return mx.stack([x, *(alike(p(x), x) for p in self.altup_projections)])

    def narrowed(self, x: mx.array) -> mx.array:
        others = [alike(p(x[i + 1]), x[0]) for i, p in enumerate(self.altup_unembed_projections)]
        return mx.stack([x[0], *others]).mean(0)


def alike(x: mx.array, model: mx.array) -> mx.array:
    """``x`` with the root mean square of ``model``."""
    size = mx.sqrt((model * model).mean(-1, keepdims=True))
    return x * size / mx.sqrt(mx.maximum((x * x).mean(-1, keepdims=True), 1e-5))


def build(c: Config) -> Decoder:
    rope, act = ropes(c), activation(c.hidden_activation)
    kinds = recipe.layer_types(
        c, lambda i: "sliding_attention" if (i + 1) % 5 else "full_attention", ("full_attention", "sliding_attention")
    )
    own, shares = owners(kinds, c.num_kv_shared_layers), c.activation_sparsity_pattern or []
    widths = c.intermediate_size if isinstance(c.intermediate_size, list) else []

    def layer(i: int) -> Layer:
        attention = SharedAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            kind=kinds[i],
            owner=own[i],
            rope=rope[kinds[i]],
            eps=c.rms_norm_eps,
            window=c.sliding_window if kinds[i] == "sliding_attention" else None,
            bias=c.attention_bias,
        )
        cut = NormalDist().inv_cdf(shares[i]) if shares[i] > 0 else None
        glu = gated(c.hidden_activation) if cut is None else partial(sparse, act=act, cut=cut)
        return Layer(c, attention, GatedMLP(c.hidden_size, widths[i], glu=glu))

    backbone = Streams(
        c.vocab_size,
        c.hidden_size,
        [layer(i) for i in range(c.num_hidden_layers)],
        RMSNorm(c.hidden_size, c.rms_norm_eps),
        rows=c.vocab_size_per_layer_input,
        width=c.hidden_size_per_layer_input,
        eps=c.rms_norm_eps,
        streams=c.altup_num_inputs,
    )
    finish = partial(softcap, cap=c.final_logit_softcapping) if c.final_logit_softcapping else None
    return Decoder(backbone, tied=c.tie_word_embeddings, finish=finish)


def without_spare_keys(weights: dict[str, mx.array], config) -> dict[str, mx.array]:
    """A rule: layers that share another's keys and values have some in checkpoints, and never read them."""
    first = config.num_hidden_layers - config.num_kv_shared_layers
    spare = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.[kv]_(?:proj|norm)\.")
    return {n: w for n, w in weights.items() if not ((found := spare.search(n)) and int(found[1]) >= first)}


BESIDE = ("vision_tower", "audio_tower", "embed_audio", "embed_vision", "multi_modal_projector")
NAMES = (
    *(Drop(f"^{prefix}{part}") for part in BESIDE for prefix in ("", "model.")),
    Rename("^model.language_model", "model"),  # beside the towers
    Rename("^language_model.model", "model"),
    without_spare_keys,
)
ARCHITECTURE = Architecture(Config, build, NAMES)
