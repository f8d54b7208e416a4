"""From a checkpoint on disk to text, through the package's face, in the thread that loads it and in others."""
import sys
import threading
from pathlib import Path

import pytest

import mlxlm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def loaded(tmp_path):
    return mlxlm.load(str(tiny.checkpoint(tmp_path / "model", rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64})))


def test_the_first_generation_may_run_in_another_thread(loaded, tmp_path):
    model, processor = loaded
    texts = []
    threads = [threading.Thread(target=lambda: texts.append(
        mlxlm.generate(model, processor, MESSAGES, max_tokens=20, temperature=0.8, seed=7))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3
    assert set(texts) == {mlxlm.generate(model, processor, MESSAGES, max_tokens=20, temperature=0.8, seed=7)}


def test_a_prompt_in_pieces_says_what_the_whole_prompt_says(loaded):
    model, processor = loaded
    prompt = processor.encode("The quick brown fox jumps over the lazy dog")
    whole = mlxlm.stream_generate(model, processor, prompt, max_tokens=12)
    expected = [piece.token for piece in whole]
    cache = model.make_cache()
    list(mlxlm.stream_generate(model, processor, prompt[:20], max_tokens=0, cache=cache))
    rest = mlxlm.stream_generate(model, processor, prompt[20:], max_tokens=12, cache=cache, prefill_step_size=5)
    assert [piece.token for piece in rest] == expected
    assert rest.stats.cached_tokens == 20 and rest.stats.prompt_tokens == len(prompt) - 20


def test_a_small_rotating_cache_lets_the_prompt_be_longer_than_the_context(loaded):
    model, processor = loaded
    prompt = [5 + i % 200 for i in range(600)]
    with pytest.raises(mlxlm.MLXLMError, match="found 600 tokens; expected at most 512"):
        mlxlm.generate(model, processor, prompt)
    stream = mlxlm.stream_generate(model, processor, prompt, max_kv_size=32, max_tokens=40, prefill_step_size=16)
    tokens = [piece.token for piece in stream]
    assert 0 < len(tokens) <= 40
    assert stream.cache.nbytes < 600 * 2 * 2 * 16 * 2 * 4


def test_the_template_and_the_stops_of_the_checkpoint_count(loaded):
    model, processor = loaded
    stream = mlxlm.stream_generate(model, processor, MESSAGES, max_tokens=3)
    assert processor.decode(stream.prompt.tolist()) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    never = {token: float("-inf") for token in range(model.config.vocab_size) if token != 2}
    [only] = list(mlxlm.stream_generate(model, processor, MESSAGES, logit_bias=never))
    assert (only.token, only.text, only.finish_reason) == (2, "", "stop")
