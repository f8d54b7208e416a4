"""Baichuan M1, which transformers hasn't, against Ministral with another attention's heads, keys and values."""

import copy

import torch
from torch import nn
from transformers import MinistralConfig, MinistralForCausalLM
from transformers.models.ministral.modeling_ministral import MinistralAttention, MinistralRotaryEmbedding

from ..reference import Case, settings


class Mixed(nn.Linear):
    """A projection whose result is mixed with the one of the token before, by two weights for each head."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__(dim, heads * head_dim, bias=False)
        self.heads, self.conv = heads, nn.Parameter(torch.zeros(1, 1, heads, 1, 2))

    def forward(self, x):
        u = super().forward(x).unflatten(-1, (self.heads, -1))
        before = torch.cat([torch.zeros_like(u[:, :1]), u[:, :-1]], dim=1)
        return (before * self.conv[0, 0, :, :, 0] + u * self.conv[0, 0, :, :, 1]).flatten(-2)


class OwnHeads(nn.Module):
    """An attention with a number of heads of its own, and a rope for their size."""

    def __init__(self, config, layer: int, heads: int, kv_heads: int):
        super().__init__()
        config = copy.deepcopy(config)
        config.num_attention_heads, config.num_key_value_heads = heads, kv_heads
        config.head_dim = config.hidden_size // heads
        self.inner, self.rotary = MinistralAttention(config, layer), MinistralRotaryEmbedding(config)
        for name in ("k_proj", "v_proj"):
            setattr(self.inner, name, Mixed(config.hidden_size, kv_heads, config.head_dim))

    def forward(self, hidden_states, position_embeddings=None, **rest):
        positions = torch.arange(hidden_states.shape[1])[None]
        return self.inner(hidden_states, position_embeddings=self.rotary(hidden_states, positions), **rest)


class LengthlessHead(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight / (self.weight.norm(dim=-1, keepdim=True) + 1e-7))


def baichuan(case: Case) -> MinistralForCausalLM:
    given = settings(case)
    near = (given.pop("num_swa_attention_heads", None), given.pop("num_swa_key_value_heads", None))
    config = MinistralConfig(**given)
    config._attn_implementation = "eager"
    model = MinistralForCausalLM(config)
    config.near = near
    for i, layer in enumerate(model.model.layers):
        own = near if config.layer_types[i] == "sliding_attention" else (None, None)
        heads = (own[0] or config.num_attention_heads, own[1] or config.num_key_value_heads)
        layer.self_attn = OwnHeads(config, i, *heads)
    model.lm_head = LengthlessHead(config.hidden_size, config.vocab_size, bias=False)
    return model


def as_baichuan(state: dict, config: dict) -> tuple[dict, dict]:
    state = {n.replace(".inner.", "."): t for n, t in state.items()}
    for name in [n for n in state if n.endswith(".q_proj.weight")]:
        parts = [state.pop(name.replace("q_proj", p)) for p in ("q_proj", "k_proj", "v_proj")]
        state[name.replace("q_proj", "W_pack")] = torch.cat(parts)
    for name in [n for n in state if n.endswith("_proj.conv")]:
        state[name.replace("k_proj.conv", "conv_k").replace("v_proj.conv", "conv_v")] = state.pop(name)
    config = dict(config, model_type="baichuan_m1", conv_window=2)
    kinds = config.pop("layer_types", [])
    config["sliding_window_layers"] = [i for i, kind in enumerate(kinds) if kind == "sliding_attention"]
    config["num_swa_attention_heads"], config["num_swa_key_value_heads"] = config.pop("near", (None, None))
    config.pop("head_dim", None)
    return state, config


KINDS = ["full_attention", "sliding_attention"] * 2

CASES = [
    Case(
        "baichuan_m1",
        "one-kind-of-heads",
        dict(layer_types=KINDS, sliding_window=5, head_dim=16),
        make=baichuan,
        rewrite=as_baichuan,
    ),
    Case(
        "baichuan_m1",
        "own-heads-in-windows",
        dict(
            layer_types=KINDS[::-1], sliding_window=6, head_dim=16, num_swa_attention_heads=8, num_swa_key_value_heads=4
        ),
        make=baichuan,
        rewrite=as_baichuan,
    ),
]
