"""gpt-oss: sinks in every attention, a sliding layer for each full one, clamped experts with biases, often MXFP4."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Decoder
from ..errors import WeightError
from ..layers import Experts, PreNorm, SparseMoE, top_k
from ..weights import Each, Split, Suffix, swap_last


@dataclass(kw_only=True)
class Config(DecoderConfig):
    num_local_experts: int
    num_experts_per_tok: int = 4
    head_dim: int = 64
    layer_types: list[str] | None = None
    sliding_window: int | None = 128
    attention_bias: bool = True
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150_000.0


def clamped_swiglu(gate: mx.array, up: mx.array, *, limit: float, alpha: float) -> mx.array:
    """gate · sigmoid(alpha · gate) · (up + 1), both clamped."""
    gate, up = mx.minimum(gate, limit), mx.clip(up, -limit, limit)
    return gate * mx.sigmoid(alpha * gate) * (up + 1)


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c), recipe.rope(c)
    glu = partial(clamped_swiglu, limit=c.swiglu_limit, alpha=c.swiglu_alpha)
    kinds = recipe.layer_types(
        c, lambda i: "full_attention" if i % 2 else "sliding_attention", ("full_attention", "sliding_attention")
    )

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c,
            rope=rope,
            window=c.sliding_window if kinds[i] == "sliding_attention" else None,
            bias=c.attention_bias,
            sinks=True,
        )
        moe = SparseMoE(
            nn.Linear(c.hidden_size, c.num_local_experts, bias=True),
            Experts(c.hidden_size, c.intermediate_size, c.num_local_experts, glu=glu, bias=True),
            route=top_k(c.num_experts_per_tok, softmax_first=False),
            names=("router", "experts"),
        )
        return PreNorm(attention, moe, norm)

    return recipe.decoder(c, block, norm)


def unpack_blocks(weights: dict[str, mx.array], config) -> dict[str, mx.array]:
    """A rule: MXFP4 as OpenAI ships it, blocks (experts, out, groups, 16) of bytes, to MLX's packed words."""
    out = {}
    for name, w in weights.items():
        if name.endswith("_proj_blocks"):
            if w.dtype != mx.uint8 or w.ndim != 4 or w.shape[-1] != 16:
                raise WeightError("these aren't blocks of MXFP4", where=name, found=f"{w.dtype} {tuple(w.shape)}",
                                  expected="bytes (experts, out, groups, 16)")
            out[name.removesuffix("_blocks") + ".weight"] = w.view(mx.uint32).flatten(-2)
        else:
            out[name.replace("_proj_scales", "_proj.scales")] = w
    return out


ARCHITECTURE = Architecture(
    Config,
    build,
    (
        unpack_blocks,
        *(Suffix(f"experts.{p}_bias", f"experts.{p}.bias") for p in ("gate_up_proj", "down_proj")),
        *(Suffix(f"experts.{p}", f"experts.{p}.dense") for p in ("gate_up_proj", "down_proj")),
        Each("experts.gate_up_proj.dense", swap_last),  # stored (experts, in, out)
        Each("experts.down_proj.dense", swap_last),
        *(Suffix(f"experts.{p}.dense", f"experts.{p}.weight") for p in ("gate_up_proj", "down_proj")),
        Split("gate_up_proj", ("gate_proj", "up_proj"), interleaved=True),
    ),
)
