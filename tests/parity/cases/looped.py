"""Nanbeige, which transformers hasn't: its Llama's own layers, run through several times as the releases do."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from ..reference import Case, settings
from .first import LLAMA3


class Looped(LlamaForCausalLM):
    """The stack ``num_loops`` times; the norm comes after each time, or after the last only."""

    def forward(self, input_ids, use_cache=False):
        inner, config = self.model, self.config
        x = inner.embed_tokens(input_ids)
        length = x.shape[1]
        positions = torch.arange(length)[None]
        turns = inner.rotary_emb(x, positions)
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
        for _ in range(config.num_loops):
            for layer in inner.layers:
                x = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=turns)
            x = x if config.skip_loop_final_norm else inner.norm(x)
        x = inner.norm(x) if config.skip_loop_final_norm else x
        return CausalLMOutput(logits=self.lm_head(x))


def looped(case: Case) -> Looped:
    return Looped._from_config(LlamaConfig(**settings(case)), attn_implementation="eager")


def as_nanbeige(state: dict, config: dict) -> tuple[dict, dict]:
    return state, dict(config, model_type="nanbeige")


CASES = [
    Case("nanbeige", "twice", dict(num_loops=2, skip_loop_final_norm=False), make=looped, rewrite=as_nanbeige),
    Case(
        "nanbeige",
        "three-times-one-norm-biases-tied",
        dict(num_loops=3, skip_loop_final_norm=True, num_hidden_layers=2, attention_bias=True, mlp_bias=True,
             tie_word_embeddings=True, rope_parameters=LLAMA3, head_dim=24),
        make=looped,
        rewrite=as_nanbeige,
    ),
]
