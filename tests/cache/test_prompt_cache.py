"""Prompt caches on disk: a conversation goes on where it stood, in mlx-lm too, and a bad file is told."""

import random

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import cache as theirs
from tiny_models import KINDS, as_mlx_lm, model

from mlxlm.cache import CachePolicy, SlidingCache, State
from mlxlm.errors import GenerationError, MLXLMError
from mlxlm.generate.prompt_cache import load_prompt_cache, save_prompt_cache

BOUND = 2e-4  # of the spread: either side may be off by the parity bound
READ, ALL = 27, 41
IDS = np.random.RandomState(5).randint(3, 97, (1, ALL)).astype(np.int32)
# One chunk, then single tokens: mlx-lm's rotating buffers take each in another way.
PLANS = {"chunk": [READ], "tokens": [20, *[1] * (READ - 20)]}


def logits(net, cache, plan, start=0):
    out = []
    for length in plan:
        out.append(net(mx.array(IDS[:, start : start + length]), cache=cache))
        mx.eval(out)
        start += length
    return np.array(mx.concatenate(out, axis=1))


def same(found, expected, bound=BOUND):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= bound * expected.std()


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_from_its_file(kind, tmp_path):
    net, path = model(kind), tmp_path / "cache.safetensors"
    state = net.make_cache()
    logits(net, state, PLANS["tokens"])
    save_prompt_cache(path, state, {"title": "A talk.", "a.b": "c"})
    loaded, metadata = load_prompt_cache(path, net, return_metadata=True)
    assert metadata == {"title": "A talk.", "a.b": "c"}
    assert loaded.offset == READ and [c.offset for c in loaded] == [c.offset for c in state]
    rest = [3, *[1] * (ALL - READ - 3)]
    same(logits(net, loaded, rest, READ), logits(net, state, rest, READ), 2e-5)


@pytest.mark.parametrize("max_kv_size", [8, 16, 64])
def test_so_does_a_bounded_one(max_kv_size, tmp_path):
    net = model("attention")
    state = net.make_cache(max_kv_size=max_kv_size)
    logits(net, state, PLANS["tokens"])
    save_prompt_cache(tmp_path / "c.safetensors", state)
    loaded = load_prompt_cache(tmp_path / "c.safetensors", net)
    assert all(isinstance(c, SlidingCache) and (c.window, c.keep) == (max_kv_size, 4) for c in loaded)
    rest = [1] * (ALL - READ)
    same(logits(net, loaded, rest, READ), logits(net, state, rest, READ), 2e-5)


PEERS = ["llama-llama3-rope-biases-tied", "olmo3-window-yarn", "qwen3_moe-normalised", "deepseek_v3-no-groups",
         "deepseek_v32-indexed", "mamba2-plain", "mamba-plain", "jamba-dense-biases", "nemotron_h-moe",
         "qwen3_next-delta-moe", "lfm2-convolutions", "falcon_h1-multipliers", "baichuan_m1-own-heads-in-windows",
         "gemma4_text-shared-wide"]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", PEERS)
def test_mlx_lm_goes_on_from_our_file_and_we_from_its(name, plan, tmp_path):
    ours, peer = model(name), as_mlx_lm(name)
    rest = [1] * (ALL - READ)
    expected = logits(ours, ours.make_cache(), [ALL])[:, READ:]
    state = ours.make_cache()
    logits(ours, state, PLANS[plan])
    save_prompt_cache(tmp_path / "ours.safetensors", state, {"title": "A talk."})
    loaded, metadata = theirs.load_prompt_cache(str(tmp_path / "ours.safetensors"), return_metadata=True)
    assert metadata["title"] == "A talk."
    same(logits(peer, loaded, rest, READ), expected)
    cache = theirs.make_prompt_cache(peer)
    logits(peer, cache, PLANS[plan])
    theirs.save_prompt_cache(str(tmp_path / "theirs.safetensors"), cache, {"title": "Another."})
    state, metadata = load_prompt_cache(tmp_path / "theirs.safetensors", ours, return_metadata=True)
    assert metadata == {"title": "Another."}
    same(logits(ours, state, rest, READ), expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("size", [8, 16, 64])
def test_bounded_caches_cross_over_too(size, plan, tmp_path):
    ours, peer, rest = model("attention"), as_mlx_lm(KINDS["attention"]), [1] * (ALL - READ)
    state, cache = ours.make_cache(max_kv_size=size), [theirs.RotatingKVCache(size, keep=4) for _ in peer.layers]
    logits(ours, state, PLANS[plan])
    logits(peer, cache, PLANS[plan])
    save_prompt_cache(tmp_path / "ours.safetensors", state)
    theirs.save_prompt_cache(str(tmp_path / "theirs.safetensors"), cache)
    here = load_prompt_cache(tmp_path / "theirs.safetensors", ours)
    there = theirs.load_prompt_cache(str(tmp_path / "ours.safetensors"))
    # A rotating buffer of mlx-lm sees a token more while it is not full; what both hold is compared by going on.
    same(logits(ours, here, rest, READ), logits(peer, cache, rest, READ))
    same(logits(peer, there, rest, READ), logits(ours, state, rest, READ))


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_caches_cross_over_too(bits, tmp_path):
    from parity import reference

    from mlxlm.load import load_model

    case = reference.Case("llama", "wide-heads", dict(head_dim=64))
    folder = reference.save(reference.build(case), tmp_path / "model")
    from mlx_lm import utils

    ours, peer = load_model(folder), utils.load_model(reference.save_old_config(folder, tmp_path / "old"))[0]
    state, rest = ours.make_cache(), [1] * (ALL - READ)
    logits(ours, state, [READ])
    CachePolicy(bits=bits, group_size=32).apply(state)
    save_prompt_cache(tmp_path / "ours.safetensors", state)
    there = theirs.load_prompt_cache(str(tmp_path / "ours.safetensors"))
    assert {type(c).__name__ for c in there} == {"QuantizedKVCache"}
    cache = theirs.make_prompt_cache(peer)
    logits(peer, cache, [READ])
    cache = [c.to_quantized(32, bits) for c in cache]
    theirs.save_prompt_cache(str(tmp_path / "theirs.safetensors"), cache)
    here = load_prompt_cache(tmp_path / "theirs.safetensors", ours)
    expected = logits(ours, state, rest, READ)
    # A last bit of a key may turn by a rounding, so what is packed may differ by a step here and there.
    assert np.abs(logits(peer, there, rest, READ) - expected).max() < 2e-2 * expected.std()
    write_older(tmp_path / "old.safetensors", cache)
    old = load_prompt_cache(tmp_path / "old.safetensors", ours)
    assert all(mx.array_equal(a, b) for a, b in zip(old.arrays, here.arrays, strict=True))
    assert np.abs(logits(ours, here, rest, READ) - expected).max() < 2e-2 * expected.std()


@pytest.mark.parametrize("lengths", [[5], [20, 1, 1], [20, 9, 1]])
def test_chunked_caches_cross_over_too(lengths, tmp_path):
    """mlx-lm's own model of this kind is wrong elsewhere, so the caches themselves are compared."""
    net = model("chunked")
    state = net.make_cache()
    assert state[0].window == 6
    cache = [theirs.ChunkedKVCache(6) if c.kind == "chunked" else theirs.KVCache() for c in state]
    at = 0
    for length in lengths:
        ids = mx.array(IDS[:, at : at + length])
        net(ids, cache=state)
        keys = mx.arange(at, at + length).reshape(1, 1, -1, 1) * mx.ones((1, 2, 1, 16))
        for own in cache:
            getattr(own, "maybe_trim_front", lambda: None)()
            own.update_and_fetch(keys, -keys)
        at += length
    save_prompt_cache(tmp_path / "ours.safetensors", state)
    theirs.save_prompt_cache(str(tmp_path / "theirs.safetensors"), cache)
    there = theirs.load_prompt_cache(str(tmp_path / "ours.safetensors"))
    here = load_prompt_cache(tmp_path / "theirs.safetensors", net)
    for own, other, loaded in zip(state, there, here, strict=True):
        if own.kind == "chunked":
            new = mx.zeros((1, 2, 1, 16))
            found, expected = own.update(new, new)[0], other.update_and_fetch(new, new)[0]
            assert mx.array_equal(found[..., -6:, :], expected[..., -6:, :])
            assert other.offset == loaded.offset + 1 == at + 1
            assert loaded.update(new, new)[0][0, 0, :-1, 0].tolist() == list(range(max(at - 5, 0), at))


def write_older(path, caches):
    """What older versions of mlx-lm wrote, out of today's caches: states without counts, and those as text."""
    from mlx.utils import tree_flatten

    def old(cache):
        kind, state = type(cache).__name__, cache.state
        if kind == "CacheList":
            inner = [old(c) for c in cache.caches]
            return [s for s, _ in inner], [[type(c).__name__ for c in cache.caches], [m for _, m in inner]]
        if kind == "KVCache":
            return [a[..., : cache.offset, :] for a in state[:2]], ""
        if kind == "QuantizedKVCache":
            return [[a[..., : cache.offset, :] for a in part] for part in state[:2]], [
                str(n) for n in (cache.offset, cache.group_size, cache.bits)]
        if kind == "RotatingKVCache":
            held = [a[..., : cache.offset, :] if cache.offset < a.shape[2] else a for a in state[:2]]
            return held, [str(n) for n in (cache.keep, cache.max_size, cache.offset, cache._idx)]
        return state[0], ""

    states, counts = zip(*map(old, caches), strict=True)
    notes = dict(tree_flatten([list(counts), {"title": "An old talk."}, [type(c).__name__ for c in caches]]))
    mx.save_safetensors(str(path), dict(tree_flatten(list(states))), notes)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ["llama-llama3-rope-biases-tied", "olmo3-window-yarn", "falcon_h1-multipliers",
                                  "lfm2-convolutions", "qwen3_next-delta-moe"])
def test_files_of_an_older_mlx_lm_are_read(name, plan, tmp_path):
    ours, peer, rest = model(name), as_mlx_lm(name), [1] * (ALL - READ)
    caches = [theirs.make_prompt_cache(peer)]
    if name.startswith("llama"):
        caches.append([theirs.RotatingKVCache(size, keep=4) for size in [16] * len(peer.layers)])
    for cache in caches:
        logits(peer, cache, PLANS[plan])
        write_older(tmp_path / "old.safetensors", cache)
        state, metadata = load_prompt_cache(tmp_path / "old.safetensors", ours, return_metadata=True)
        assert metadata == {"title": "An old talk."}
        same(logits(ours, state, rest, READ), logits(peer, cache, rest, READ))


@pytest.fixture
def saved(tmp_path):
    net = model("beside")
    state = net.make_cache()
    logits(net, state, [9])
    save_prompt_cache(tmp_path / "c.safetensors", state)
    return net, tmp_path / "c.safetensors"


def test_damaged_files_are_told(saved, tmp_path):
    net, path = saved
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    rng = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(8 + length)] = rng.randrange(256)
        data = data[: rng.choice([len(data), rng.randrange(len(data))])]
        path.write_bytes(data)
        try:
            state = load_prompt_cache(path, net)
            mx.eval(net(mx.array([[5]]), cache=state))  # what loads can be used
        except MLXLMError:
            pass


def rewritten(path, change):
    """The file with its metadata changed by ``change(notes, arrays)``."""
    arrays, notes = mx.load(str(path), return_metadata=True)
    change(notes, arrays)
    mx.save_safetensors(str(path), arrays, notes)


@pytest.mark.parametrize(("change", "told"), [
    (lambda notes, arrays: notes.pop("1.0"), "prompt cache"),
    (lambda notes, arrays: notes.update({"1.0": "os.system"}), "unknown class"),
    (lambda notes, arrays: notes.update({"1.0": "KVCache"}), "0: not this model"),
    (lambda notes, arrays: notes.update({"0.mlxlm": "[]"}), "damaged"),
    (lambda notes, arrays: notes.update({"2.1.1": "pickle"}), "unknown kind"),
    (lambda notes, arrays: arrays.pop("0.0.0.0.0"), "prompt cache|damaged"),
    (lambda notes, arrays: arrays.update({"0.1.0.0": mx.zeros((1, 2, 9, 999))}), "another model"),
    (lambda notes, arrays: arrays.update({"0.1.0.2": mx.array(10**6)}), "tokens"),
    (lambda notes, arrays: [notes.clear(), notes.update({"format": "pt"})], "names no caches"),
])
def test_files_that_say_something_else_are_told(saved, change, told):
    net, path = saved
    rewritten(path, change)
    with pytest.raises(MLXLMError, match=told):
        load_prompt_cache(path, net)


def test_another_models_cache_is_told(saved):
    _, path = saved
    for kind in ("attention", "mamba2", "delta", "latent"):
        with pytest.raises(MLXLMError, match="model"):
            load_prompt_cache(path, model(kind))
    with pytest.raises(MLXLMError):
        load_prompt_cache(path.parent / "none.safetensors", model("attention"))


def test_nothing_is_written_half(saved, tmp_path, monkeypatch):
    net, path = saved
    before = path.read_bytes()

    def fails(*_args):
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(mx, "save_safetensors", fails)
    with pytest.raises(MLXLMError, match="no space left"):
        save_prompt_cache(path, net.make_cache())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(MLXLMError, match="can't be written"):
        save_prompt_cache(tmp_path / "no" / "folder.safetensors", net.make_cache())


def test_what_can_not_be_saved_is_told(tmp_path):
    net = model("attention")
    with pytest.raises(GenerationError, match="batch"):
        save_prompt_cache(tmp_path / "c.safetensors", net.make_cache(left_padding=[0, 2]))
    with pytest.raises(GenerationError, match="metadata"):
        save_prompt_cache(tmp_path / "c.safetensors", net.make_cache(), {"mlxlm": "mine"})
    with pytest.raises(GenerationError, match="kind"):
        save_prompt_cache(tmp_path / "c.safetensors", _odd())


def _odd():
    class Odd(SlidingCache):
        pass

    return State([Odd(4)])
