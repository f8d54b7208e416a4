"""transformers' float32 model of a GGUF file, built with the gguf package alone: none of our reading takes part."""
import re
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LLAMA = {**_LAYER, "ffn_norm": "post_attention_layernorm"}
_GEMMA = {**_LAYER, "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
          "post_ffw_norm": "post_feedforward_layernorm"}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class Reference:
    """A LlamaForCausalLM or Gemma3ForCausalLM in float32, on the weights that gguf's own dequantizer gives."""

    def __init__(self, path: Path):
        self.reader = gguf.GGUFReader(path)
        self.architecture = self._value("general.architecture")
        self.model = {"llama": self._llama, "gemma3": self._gemma}[self.architecture]()
        missing, unexpected = self.model.load_state_dict(self._weights(), strict=False)
        # A tied head is the one thing that a file may leave out.
        if unexpected or set(missing) - {"lm_head.weight"}:
            raise ValueError(f"missing {missing}, unexpected {unexpected}")
        self.model.tie_weights()
        self.model.eval()

    @torch.no_grad()
    def logits(self, prompt: list[int], tokens: list[int]) -> np.ndarray:
        """The logits that each of the tokens is to be taken from, (tokens, vocab), in one pass over all of them."""
        return self.model(torch.tensor([prompt + tokens[:-1]]), logits_to_keep=len(tokens)).logits[0].numpy()

    @torch.no_grad()
    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """As many tokens as asked, one by one with a cache, EOS or not."""
        given, cache, tokens = torch.tensor([prompt]), None, []
        for _ in range(count):
            out = self.model(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, given = out.past_key_values, out.logits.argmax(-1)
            tokens.append(int(given))
        return tokens

    def tensors_of(self, kind: str) -> list[str]:
        """The parameters that the file holds in blocks of one type, such as Q6_K."""
        return [self._name(t.name) for t in self.reader.tensors if t.tensor_type.name == kind]

    def weight(self, name: str) -> np.ndarray:
        return self.model.get_parameter(name).detach().numpy()

    def set_weight(self, name: str, value: np.ndarray) -> None:
        self.model.get_parameter(name).data = torch.from_numpy(value)

    def _value(self, key: str):
        return self.reader.fields[key].contents()

    def _of(self, key: str):
        return self._value(f"{self.architecture}.{key}")

    @cached_property
    def _shape(self) -> dict:
        return {
            "vocab_size": len(self.reader.fields["tokenizer.ggml.tokens"].data),
            "hidden_size": self._of("embedding_length"), "intermediate_size": self._of("feed_forward_length"),
            "num_hidden_layers": self._of("block_count"), "num_attention_heads": self._of("attention.head_count"),
            "num_key_value_heads": self._of("attention.head_count_kv"),
            "rms_norm_eps": self._of("attention.layer_norm_rms_epsilon"),
            "max_position_embeddings": self._of("context_length"), "attn_implementation": "eager",
            "tie_word_embeddings": "output.weight" not in {t.name for t in self.reader.tensors},
        }

    def _llama(self):
        self._names, theta = _LLAMA, self._of("rope.freq_base")
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(
            **self._shape, rope_parameters={"rope_type": "default", "rope_theta": theta}))

    def _gemma(self):
        # llama.cpp's constants for this architecture: every sixth layer is global, local ones turn at 10,000.
        self._names, layers = _GEMMA, range(1, self._of("block_count") + 1)
        return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(
            **self._shape, head_dim=self._of("attention.key_length"), query_pre_attn_scalar=256,
            sliding_window=self._of("attention.sliding_window"),
            layer_types=["full_attention" if n % 6 == 0 else "sliding_attention" for n in layers],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": self._of("rope.freq_base")},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}))

    def _weights(self) -> dict[str, torch.Tensor]:
        weights = {}
        for tensor in self.reader.tensors:
            value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            weights[self._name(tensor.name)] = torch.from_numpy(self._undone(tensor.name, value))
        return weights

    def _name(self, name: str) -> str:
        if layer := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
            return f"model.layers.{layer[1]}.{self._names[layer[2]]}.weight"
        return _TOP[name.removesuffix(".weight")] + ".weight"

    def _undone(self, name: str, value: np.ndarray) -> np.ndarray:
        """What the conversion to GGUF did: Llama's Q and K rows interleaved, one added to Gemma's norms."""
        if self.architecture == "gemma3" and "norm" in name:
            return value - 1
        kind = re.search(r"attn_(q|k)\.weight", name)
        if self.architecture == "llama" and kind:
            heads = self._of("attention.head_count" if kind[1] == "q" else "attention.head_count_kv")
            pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, value.shape[1])
            return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(value.shape))
        return value.copy()
