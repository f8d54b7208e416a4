"""Packed keys and values: attention on them is attention on what they stand for, and what isn't packed says why."""

import mlx.core as mx
import numpy as np
import pytest
from tiny_models import model

from mlxlm.cache import CachePolicy, KVCache, Packed, QuantizedKVCache, SlidingCache, State, cache_status
from mlxlm.errors import GenerationError
from mlxlm.layers.attention import Softcapped, alibi, attend
from mlxlm.load import load_model

HEADS = dict(head_dim=64, num_attention_heads=4, num_key_value_heads=2)


def random(*shape):
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_what_comes_back_is_within_a_step(bits, group):
    """Groups have n + 1 = 2^bits levels, a step s apart, one of them at the end of greater size e >= ns/2.

    MLX rounds e/s so that 0 is a level too: the step becomes e/round(e/s), and n of them miss the other end by up to
    s·n/(n + 1). All else is within half of the new step, at most 0.5s/(1 - 1/n).
    """
    cache, keys, values = QuantizedKVCache(group, bits), random(2, 2, 9, 128), random(2, 2, 9, 256)
    for part in (slice(0, 5), slice(5, 9)):
        k, v = cache.update_and_fetch(keys[:, :, part], values[:, :, part])
    for found, given in ((k, keys), (v, values)):
        assert found.shape == given.shape
        groups = np.array(given).reshape(-1, group)
        step = (groups.max(-1) - groups.min(-1)) / (2**bits - 1)
        off = np.abs(np.array(found).reshape(-1, group) - groups).max(-1)
        assert (off <= step + 1e-6).all()
        assert (off > 0).any()


MASKS = {
    "none": (None, 1),
    "causal": ("causal", 5),
    "rows": (mx.arange(12) >= mx.array([0, 3])[:, None, None, None], 1),
    "queries": (mx.arange(12) <= mx.arange(7, 12)[:, None], 5),
    "many": ("causal", 12),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("how", ["plain", "capped", "alibi"])
def test_attention_on_packed_tokens_is_attention_on_unpacked_ones(mask, how):
    scored = {"plain": attend, "capped": Softcapped(3.0), "alibi": alibi(mx.array([0.5, 0.25, 0.1, 0.05]))}[how]
    seen, length = MASKS[mask]
    cache = QuantizedKVCache(32, 4)
    k, v = cache.update(random(2, 2, 12, 64), random(2, 2, 12, 32))
    assert isinstance(k, Packed) and k.shape == (2, 2, 12, 64) and k.dtype == mx.float32
    q = random(2, 4, length, 64)
    found = scored(q, k, v, scale=0.125, mask=seen)
    expected = scored(q, k.unpacked(), v.unpacked(), scale=0.125, mask=seen)
    assert found.shape == expected.shape == (2, 4, length, 32)
    assert np.abs(np.array(found - expected)).max() < 2e-6


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A llama and a hybrid whose heads are wide enough to be packed."""
    from parity import reference
    from parity.cases import CASES

    at = tmp_path_factory.mktemp("wide")
    llama = reference.Case("llama", "wide-heads", HEADS)
    named = {c.name: c for c in CASES}
    hybrid = reference.Case("falcon_h1", "wide-heads", {**named["falcon_h1-multipliers"].config, **HEADS})
    return {c.model_type: load_model(reference.save(reference.build(c), at / c.model_type)) for c in (llama, hybrid)}


def run(net, ids, state, policy, chunk):
    out = []
    for start in range(0, ids.shape[1], chunk):
        out.append(net(ids[:, start : start + chunk], cache=state))
        policy.apply(state)
    return np.array(mx.concatenate(out, axis=1))


@pytest.mark.parametrize("kind", ["llama", "falcon_h1"])
def test_a_model_on_packed_tokens_is_near_itself(wide, kind):
    net = wide[kind]
    ids = mx.array(np.random.RandomState(3).randint(3, 97, (2, 40)))
    plain = run(net, ids, net.make_cache(), CachePolicy(), 40)
    for chunk in (1, 7, 40):
        errors = {}
        for bits in (8, 6, 4):
            state, policy = net.make_cache(), CachePolicy(bits=bits, group_size=32)
            errors[bits] = np.abs(run(net, ids, state, policy, chunk) - plain).max() / plain.std()
            rows = [row for row in cache_status(state, policy) if row.bits]
            assert [(row.bits, row.group_size, row.tokens) for row in rows] == [(bits, 32, 40)] * 4
        # The first chunk is read before anything is packed. Each bit less doubles the step.
        assert (errors[8] == 0) if chunk == 40 else (0 < errors[8] < errors[6] < errors[4] < 2)
        assert errors[8] < 0.1


def test_packing_begins_where_it_should(wide):
    net, policy = wide["llama"], CachePolicy(bits=8, group_size=64, start=10)
    state, ids = net.make_cache(), mx.array(np.random.RandomState(1).randint(3, 97, (1, 12)))
    plain = np.array(net(ids, cache=net.make_cache()))
    found = run(net, ids, state, policy, 1)
    assert np.abs(found[:, :10] - plain[:, :10]).max() < 1e-5 * plain.std()
    assert np.abs(found[:, 10:] - plain[:, 10:]).max() > 1e-4 * plain.std()
    assert all(type(cache) is QuantizedKVCache for cache in state)
    fresh = net.make_cache()
    net(ids[:, :9], cache=fresh)
    assert not policy.apply(fresh)
    assert "begins at 10 tokens" in str(cache_status(fresh, policy)[0])


def test_packed_rows_come_and_go_and_are_trimmed(wide):
    net, policy = wide["llama"], CachePolicy(bits=4, group_size=32)
    ids = mx.array(np.random.RandomState(2).randint(3, 97, (2, 20)))

    def read(row, length):
        state = net.make_cache()
        net(ids[row : row + 1, :length], cache=state)
        policy.apply(state)
        return state

    alone = [net(ids[r : r + 1, n : n + 1], cache=read(r, n)) for r, n in ((0, 15), (1, 6))]
    state = State.merge([read(0, 15), read(1, 6)])
    both = net(mx.stack([ids[0, 15:16], ids[1, 6:7]]), cache=state)
    assert np.abs(np.array(both) - np.array(mx.concatenate(alone))).max() < 1e-5 * np.std(np.array(both))
    assert state.trim(1) == 1
    again = net(ids[1:, 6:7], cache=state.split()[1])
    assert np.abs(np.array(again) - np.array(alone[1])).max() < 1e-5 * np.std(np.array(both))
    with pytest.raises(GenerationError, match="different kinds"):
        plain = net.make_cache()
        net(ids[:1, :4], cache=plain)
        State.merge([read(0, 3), plain])


def test_the_status_says_what_is_not_packed_and_why():
    policy = CachePolicy(bits=4)
    told = {}
    for kind in ("attention", "sliding", "mamba2", "beside", "chunked", "shared"):
        net = model(kind)
        state = net.make_cache()
        net(mx.zeros((1, 5), mx.int32), cache=state)
        assert policy.apply(state)
        assert len(cache_status(state, policy)) >= len(state)
        told[kind] = [(row.kind, row.reason) for row in cache_status(state, policy)]
    no_groups = "quantization not applied: 16 dims can't be split into groups of 64"
    assert told["attention"] == [("full", no_groups)] * 4
    assert ("sliding", "bounded by the model's window; quantization not applied: sliding window") in told["sliding"]
    assert told["mamba2"] == [("recurrent", "quantization not applied: recurrent state of fixed size")] * 4
    assert [kind for kind, _ in told["beside"][:2]] == ["composite/recurrent", "composite/full"]
    assert ("chunked", "bounded by the model's own chunk; quantization not applied: sliding window") in told["chunked"]
    assert ("none", "") in told["shared"]


def test_the_status_of_a_bounded_cache():
    state, policy = model("attention").make_cache(max_kv_size=16), CachePolicy(max_size=16)
    row = cache_status(state, policy)[0]
    assert (row.kind, row.capacity, row.keep, row.reason) == ("sliding", 16, 4, "bounded by max_kv_size")
    assert str(row) == "layer 0: sliding, 0 tokens for a window of 16, 0 bytes; bounded by max_kv_size"
    for kind in ("beside", "composite", "indexed", "sliding", "chunked", "latent"):
        state = model(kind).make_cache(max_kv_size=8)
        model(kind)(mx.zeros((1, 30), mx.int32), cache=state)
        for row in cache_status(state, CachePolicy(max_size=8)):
            assert row.kind.endswith("recurrent") or row.capacity <= 8
            assert "max_kv_size" in row.reason or "the model's" in row.reason
    assert "max_kv_size not applied" in cache_status(State([KVCache()]), policy)[0].reason
    assert cache_status(State([SlidingCache(9)]))[0].reason == "bounded by the model's window"


@pytest.mark.parametrize("wrong", [dict(bits=7), dict(bits=1), dict(bits=4, group_size=48), dict(bits=4, start=-1)])
def test_wrong_settings_are_told(wrong):
    with pytest.raises(GenerationError, match="expected"):
        CachePolicy(**wrong)




def test_a_status_tells_what_a_recurrent_layer_has_read():
    net = model("conv")
    state = net.make_cache()
    net(mx.array([list(range(3, 20))]), cache=state)
    rows = [str(row) for row in cache_status(state)]
    assert rows[0].startswith("layer 0: recurrent, a state after 17 tokens, ") and "of fixed size" in rows[0]
    assert rows[1].startswith("layer 1: full, 17 tokens, ")
