"""A model, a cache and a tokenizer small enough to predict by hand, which keep the contract that real ones keep."""
import codecs

import mlx.core as mx
import mlx.nn as nn
import numpy as np

VOCAB = 258
BOS, EOS = 256, 257


class LayerCache:
    """What one layer remembers: the sum of all tokens so far (an array, as lazily made as a real cache's)."""

    def __init__(self):
        self.total, self.offset = mx.zeros((1, 1), mx.int32), 0

    @property
    def state(self):
        return [self.total]


class FakeState(list):
    @property
    def offset(self) -> int:
        return self[0].offset

    @property
    def positions(self) -> list[int]:
        return [layer.offset for layer in self]


class SumModel(nn.Module):
    """The next token is (7 × the sum of all tokens so far + 3) mod 258: wrong as soon as one is lost or read twice."""

    def __init__(self, layers: int = 2, context: int | None = None, dtype=mx.float32):
        super().__init__()
        self.config = {"vocab_size": VOCAB, **({"max_position_embeddings": context} if context else {})}
        self.layers, self.dtype = list(range(layers)), dtype
        self.calls: list[int] = []
        self.before_last_layer = lambda: None

    def make_cache(self, max_kv_size=None):
        self.max_kv_size = max_kv_size
        return FakeState(LayerCache() for _ in self.layers)

    def __call__(self, tokens, cache):
        self.calls.append(tokens.shape[1])
        totals = mx.zeros_like(tokens)
        for index, layer in enumerate(cache):
            if index == len(cache) - 1:
                self.before_last_layer()
            totals = layer.total + mx.cumsum(tokens, axis=1)
            layer.total, layer.offset = totals[:, -1:], layer.offset + tokens.shape[1]
        return self.logits((7 * totals + 3) % VOCAB).astype(self.dtype)

    def logits(self, target):
        return -mx.abs(mx.arange(VOCAB) - target[..., None]).astype(mx.float32) / 8


def sum_model_tokens(prompt: list[int], count: int) -> list[int]:
    """What `SumModel` says after a prompt, by plain arithmetic."""
    seen = list(prompt)
    for _ in range(count):
        seen.append((7 * sum(seen) + 3) % VOCAB)
    return seen[len(prompt):]


class ScriptModel(SumModel):
    """Says the given tokens after a prompt of the given length, whatever the prompt says; then EOS for ever."""

    def __init__(self, reply: list[int] | str, prompt_length: int):
        super().__init__()
        ids = list(reply.encode()) if isinstance(reply, str) else list(reply)
        self.script = np.array([0] * (prompt_length - 1) + ids + [EOS] * 1000)

    def __call__(self, tokens, cache):
        start = cache.offset
        super().__call__(tokens, cache)
        return self.logits(mx.array(self.script[start:start + tokens.shape[1]])[None])


class ByteDetokenizer:
    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add_token(self, token: int) -> str:
        return self._decoder.decode(bytes([token])) if token < 256 else "<special>"

    def finalize(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """Ids 0 to 255 are bytes, 256 is BOS, 257 is EOS."""

    bos_token, has_chat_template = "<s>", True

    def __init__(self):
        self.eos_token_ids = {EOS}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        own = [BOS] if text.startswith(self.bos_token) else []
        return [BOS] * add_special_tokens + own + list(text.removeprefix(self.bos_token).encode())

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text, add_special_tokens=not text.startswith(self.bos_token))

    def apply_chat_template(self, messages, tools=None, add_generation_prompt=True, tokenize=True, **more):
        lines = [f"{m['role']}:{m['content']}\n" for m in messages]
        tail = "assistant:" if add_generation_prompt else ""
        extra = "".join(sorted(more)) + "".join(tool["function"]["name"] for tool in tools or [])
        return list((extra + "".join(lines) + tail).encode())

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return {"<s>": BOS, "</s>": EOS}.get(token, ord(token) if len(token) == 1 else None)

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer()
