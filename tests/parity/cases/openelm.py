"""OpenELM against a plain torch version written from its paper and config: transformers has no such type."""

import json
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional

from ..reference import BASE, Case

SIZES = dict(
    num_query_heads=[2, 3, 4, 6],
    num_kv_heads=[1, 1, 2, 2],
    ffn_multipliers=[0.5, 1.0, 1.3, 2.0],
    head_dim=16,
    ffn_dim_divisor=32,
    rope_freq_constant=10000,
    rope_max_length=128,
    share_input_output_layers=True,
    normalize_qk_projections=True,
    rms_norm_eps=1e-6,
)


class Config(SimpleNamespace):
    """The face of a transformers config that the tests look at."""

    def get_text_config(self):
        return SimpleNamespace(tie_word_embeddings=self.share_input_output_layers)

    def to_json_string(self, use_diff=False):
        return json.dumps(vars(self))


def widths(c: Config) -> list[int]:
    """Each layer's hidden size, rounded to the divisor but never more than a tenth down."""
    out = []
    for m in c.ffn_multipliers:
        wanted = m * c.model_dim
        size = max(c.ffn_dim_divisor, int(wanted + c.ffn_dim_divisor / 2) // c.ffn_dim_divisor * c.ffn_dim_divisor)
        out.append(size if size >= 0.9 * wanted else size + c.ffn_dim_divisor)
    return out


def turned(x: torch.Tensor, base: float) -> torch.Tensor:
    """(B, heads, L, dim) turned by position, the first half of a head paired with the second."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] / base ** (torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class Attention(nn.Module):
    def __init__(self, c: Config, i: int):
        super().__init__()
        self.heads, self.groups, self.c = c.num_query_heads[i], c.num_kv_heads[i], c
        self.qkv_proj = nn.Linear(c.model_dim, (self.heads + 2 * self.groups) * c.head_dim, bias=False)
        self.out_proj = nn.Linear(self.heads * c.head_dim, c.model_dim, bias=False)
        if c.normalize_qk_projections:
            self.q_norm = nn.RMSNorm(c.head_dim, c.rms_norm_eps)
            self.k_norm = nn.RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(self, x):
        sizes = [self.heads, self.groups, self.groups]
        q, k, v = self.qkv_proj(x).unflatten(-1, (-1, self.c.head_dim)).transpose(1, 2).split(sizes, 1)
        if self.c.normalize_qk_projections:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = turned(q, self.c.rope_freq_constant), turned(k, self.c.rope_freq_constant)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, c: Config, i: int):
        super().__init__()
        self.attn, self.ffn = Attention(c, i), nn.Module()
        self.ffn.proj_1 = nn.Linear(c.model_dim, 2 * widths(c)[i], bias=False)
        self.ffn.proj_2 = nn.Linear(widths(c)[i], c.model_dim, bias=False)
        self.attn_norm = nn.RMSNorm(c.model_dim, c.rms_norm_eps)
        self.ffn_norm = nn.RMSNorm(c.model_dim, c.rms_norm_eps)

    def forward(self, x):
        x = x + self.attn(self.attn_norm(x))
        gate, up = self.ffn.proj_1(self.ffn_norm(x)).chunk(2, -1)
        return x + self.ffn.proj_2(functional.silu(gate) * up)


class OpenELM(nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        sizes = dict(model_dim=BASE["hidden_size"], num_transformer_layers=4, vocab_size=BASE["vocab_size"])
        self.config = c = Config(model_type="openelm", **sizes, **{**SIZES, **case.config})
        self.transformer = nn.Module()
        self.transformer.token_embeddings = nn.Embedding(c.vocab_size, c.model_dim)
        self.transformer.layers = nn.ModuleList(Layer(c, i) for i in range(4))
        self.transformer.norm = nn.RMSNorm(c.model_dim, c.rms_norm_eps)
        if not c.share_input_output_layers:
            self.lm_head = nn.Linear(c.model_dim, c.vocab_size, bias=False)

    def forward(self, ids, use_cache=False):
        x = self.transformer.token_embeddings(ids)
        for layer in self.transformer.layers:
            x = layer(x)
        head = self.transformer.token_embeddings if self.config.share_input_output_layers else self.lm_head
        return SimpleNamespace(logits=functional.linear(self.transformer.norm(x), head.weight))


def as_it_is(state: dict, config: dict) -> tuple[dict, dict]:
    return state, config


CASES = [
    Case("openelm", "growing", make=OpenELM, rewrite=as_it_is),
    Case(
        "openelm",
        "untied-no-norms",
        dict(share_input_output_layers=False, normalize_qk_projections=False, rope_freq_constant=500),
        make=OpenELM,
        rewrite=as_it_is,
    ),
]
