"""What a batch writes is what each prompt gets alone, token for token, for every kind of cache and of attention."""

import random

import pytest
from generation_fakes import ByteTokenizer
from parity import reference
from parity.cases import CASES

from mlxlm.generate.batch import BatchLoop, Generation, batchable
from mlxlm.generate.parameters import GenerateParameters
from mlxlm.generate.stream import TextStream
from mlxlm.load import load_model

KINDS = {
    "attention": "qwen3-head-dim-24", "learned positions": "gpt2-plain", "linear bias": "falcon-alibi-sequential",
    "sliding": "gemma3_text-pattern-2", "all sliding": "mistral-window", "sinks": "gpt_oss-yarn",
    "chunked": "llama4_text-chunks-experts", "experts": "qwen3_moe-normalised", "latent": "deepseek_v3-yarn-mscale",
    "indexed": "deepseek_v32-indexed", "mamba 1": "jamba-experts", "mamba 2": "nemotron_h-moe",
    "mamba 2 beside attention": "falcon_h1-multipliers", "delta": "qwen3_next-delta-moe",
    "convolutions": "lfm2_moe-biased-choice", "lightning": "minimax-lightning",
    "shared keys": "gemma3n_text-shared-sparse",
    "rope by length": "llama-dynamic-rope", "long rope": "llama-longrope",
}


def generation(model, ids, keywords, found, errors):
    stream = TextStream(model, ByteTokenizer(), ids, GenerateParameters.of({"beyond_context": True, **keywords}))
    return Generation(stream, lambda piece: found.extend([] if piece.token is None else [piece.token]), errors.append)


def alone(model, ids, keywords):
    stream = TextStream(model, ByteTokenizer(), ids, GenerateParameters.of({"beyond_context": True, **keywords}))
    return [piece.token for piece in stream if piece.token is not None]


def run_batch(model, requests, max_batch=4, joining=3, prefill_tokens=7):
    """The tokens of each request; those from number ``joining`` on come when the others are under way."""
    loop = BatchLoop(model, max_batch=max_batch, prefill_tokens=prefill_tokens)
    found, errors = [[] for _ in requests], []
    steps = 0
    for ids, keywords in requests[:joining]:
        loop.add(generation(model, ids, keywords, found[len(loop.waiting)], errors))
    late = list(zip(requests, found, strict=True))[joining:]
    while loop.busy or late:
        if steps >= 6 and late:
            (ids, keywords), out = late.pop(0)
            loop.add(generation(model, ids, keywords, out, errors))
        loop.step()
        steps += 1
    assert not errors, errors
    return found


def requests(vocab: int):
    chance = random.Random(5)
    lengths = (3, 26, 11, 1, 17)
    counts = (24, 9, 16, 12, 20)
    sampled = [{}, {}, {"temperature": 0.8, "seed": 4}, {}, {"repetition_penalty": 1.3}]
    return [([chance.randrange(3, vocab) for _ in range(n)], {"max_tokens": count, **more})
            for n, count, more in zip(lengths, counts, sampled, strict=True)]


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_a_batch_writes_what_each_prompt_gets_alone(name, tmp_path):
    case = next(c for c in CASES if c.name == name)
    model = load_model(reference.save(reference.build(case), tmp_path / "model"))
    assert batchable(model) == (not case.by_length)
    asked = requests(case.config.get("vocab_size", reference.BASE["vocab_size"]))
    expected = [alone(model, *request) for request in asked]
    assert run_batch(model, asked) == expected
