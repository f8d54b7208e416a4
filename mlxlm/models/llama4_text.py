"""Llama 4's text half: layers that see their own chunk and turn by position, others that see all and don't turn."""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..cache import ChunkedCache
from ..config import DecoderConfig
from ..decoder import Decoder
from ..layers import BareRMSNorm, Experts, LateNormAttention, PreNorm, SparseMoE, TemperedAttention, gated
from ..weights import Each, Rename, Split, Suffix, swap_last

KINDS = ("full_attention", "chunked_attention")


@dataclass(kw_only=True)
class Config(DecoderConfig):
    head_dim: int = 128
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    max_position_embeddings: int = 131_072
    intermediate_size_mlp: int = 16_384  # of dense layers; intermediate_size is the experts'
    num_local_experts: int = 16
    num_experts_per_tok: int = 1
    moe_layers: list[int] | None = None
    interleave_moe_layer_step: int = 1
    no_rope_layers: list[int] = field(default_factory=list)  # 1 where a layer has positions, 0 where it has none
    no_rope_layer_interval: int = 4
    layer_types: list[str] | None = None
    attention_chunk_size: int | None = 8192
    use_qk_norm: bool = True
    attn_temperature_tuning: bool | int = True
    floor_scale: float = 8192
    attn_scale: float = 0.1
    attention_bias: bool = False
    for_llm_compressor: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not self.no_rope_layers:
            every = self.no_rope_layer_interval
            self.no_rope_layers = [int((i + 1) % every != 0) for i in range(self.num_hidden_layers)]
        if self.moe_layers is None:
            every = self.interleave_moe_layer_step
            self.moe_layers = list(range(every - 1, self.num_hidden_layers, every)) if every else []


class ChunkedAttention(LateNormAttention):
    """Attention that sees nothing before the chunk that a token is in."""

    def __init__(self, *sizes: int, chunk: int, **parts):
        super().__init__(*sizes, **parts)
        self._chunk = chunk

    def make_cache(self) -> ChunkedCache:
        return ChunkedCache(self._chunk)

    def mask(self, cache, step):
        causal = step.mask(cache, array=True)
        kept, first = cache.columns(step.length)
        end = step.start + step.length
        pad = 0 if step.padding is None else step.padding[:, None, None, None]
        keys = mx.concatenate([mx.arange(kept), mx.arange(first, end)])
        queries = mx.arange(step.start, end)[:, None]
        # What is padding itself is left to the causal mask, which shows it something: a row of nothing would be NaN.
        near = ((keys - pad) // self._chunk == (queries - pad) // self._chunk) | (queries < pad)
        return near if causal is None else causal & near


class MoE(SparseMoE):
    """Experts that get their tokens scaled by the sigmoid of the router's logits."""

    def __init__(self, c: Config):
        experts = Experts(c.hidden_size, c.intermediate_size, c.num_local_experts, glu=gated(c.hidden_act))
        gate = nn.Linear(c.hidden_size, c.num_local_experts, bias=False)
        super().__init__(gate, experts, recipe.gated_mlp(c), names=("router", "experts", "shared_expert"))
        self._k = c.num_experts_per_tok

    def chosen(self, x: mx.array) -> mx.array:
        logits = self["router"](x)
        picks = mx.stop_gradient(mx.argpartition(-logits, kth=self._k - 1, axis=-1)[..., : self._k])
        scores = mx.sigmoid(mx.take_along_axis(logits, picks, axis=-1).astype(mx.float32)).astype(x.dtype)
        y = self["experts"](x[..., None, :] * scores[..., None], picks[..., None])
        return y.squeeze(-2).sum(-2)


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c, interleaved=True)
    kinds = recipe.layer_types(c, lambda i: KINDS[c.no_rope_layers[i]], KINDS)

    def temper(positions: mx.array) -> mx.array:
        return 1 + c.attn_scale * mx.log1p((positions + 1) // c.floor_scale)

    def attention(i: int):
        if not c.no_rope_layers[i]:
            if c.attn_temperature_tuning:
                return recipe.attention(c, TemperedAttention, temper=temper, bias=c.attention_bias)
            return recipe.attention(c, bias=c.attention_bias)
        parts = {"rope": rope, "bias": c.attention_bias}
        if c.use_qk_norm:
            parts |= {name: BareRMSNorm(c.head_dim, c.rms_norm_eps) for name in ("q_norm", "k_norm")}
        if kinds[i] == "full_attention" or not c.attention_chunk_size:
            return recipe.attention(c, LateNormAttention, **parts)
        return recipe.attention(c, ChunkedAttention, chunk=c.attention_chunk_size, **parts)

    def block(i: int) -> PreNorm:
        feed = MoE(c) if i in (c.moe_layers or ()) else recipe.gated_mlp(c, c.intermediate_size_mlp)
        names = ("self_attn", "feed_forward", "input_layernorm", "post_attention_layernorm")
        return PreNorm(attention(i), feed, norm, names=names)

    return recipe.decoder(c, block, norm)


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        Rename("^language_model.model", "model"),
        Rename("^language_model.lm_head", "lm_head"),
        Rename("^output", "lm_head"),
        *(Suffix(f"experts.{p}", f"experts.{p}.dense") for p in ("gate_up_proj", "down_proj")),
        Each("experts.gate_up_proj.dense", swap_last),  # stored (experts, in, out)
        Each("experts.down_proj.dense", swap_last),
        *(Suffix(f"experts.{p}.dense", f"experts.{p}.weight") for p in ("gate_up_proj", "down_proj")),
        Split("gate_up_proj", ("gate_proj", "up_proj")),
    ),
)
