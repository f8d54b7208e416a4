"""A prompt that begins like an earlier one: what is reused, that nothing else changes, and how much is kept."""

import random
import threading

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import checkpoint
from tiny_models import KINDS, model

from mlxlm.cache import KVCache, RecurrentCache, SlidingCache, State
from mlxlm.cache.radix import RadixTree
from mlxlm.errors import GenerationError, MLXLMError
from mlxlm.generate import stream_generate
from mlxlm.generate.fingerprint import fingerprint
from mlxlm.generate.prefix_store import PrefixStore
from mlxlm.load import load

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), max_size=12)


@given(sequences, sequences, st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_the_tree_is_a_dictionary_that_knows_what_begins_alike(added, removed, asked):
    tree, plain = RadixTree(), {}
    for i, tokens in enumerate(added):
        assert tree.insert(tokens, i + 1) == plain.get(tuple(tokens))
        plain[tuple(tokens)] = i + 1
    for tokens in removed:
        assert tree.remove(tokens) == plain.pop(tuple(tokens), None)

    def shared(tokens):
        return next((i for i, (a, b) in enumerate(zip(tokens, asked, strict=False)) if a != b),
                    min(len(tokens), len(asked)))

    found = list(tree.candidates(asked))
    assert sorted(found) == sorted((shared(k), v) for k, v in plain.items() if shared(k))
    assert [n for n, _ in found] == sorted((n for n, _ in found), reverse=True)
    assert sorted(tree._root.entries()) == sorted(plain.values())


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """A tokenizer of bytes; its ids end below the vocabulary of no tiny model, so prompts are ids."""
    return load(checkpoint(tmp_path_factory.mktemp("llama")))[1]


def talk(net, processor, ids, **more):
    """(tokens, their logits, stats) of a greedy answer of 8 tokens."""
    stream = stream_generate(net, processor, ids, max_tokens=8, beyond_context=True, **more)
    pieces = [p for p in stream if p.token is not None]
    return [p.token for p in pieces], np.stack([np.array(p.logits) for p in pieces]), stream.stats


def same(found, expected):
    tokens, logits, _ = expected
    spread = logits.std()
    assert np.abs(found[1] - logits).max() <= 5e-5 * spread
    assert found[0] == tokens


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_reads_what_is_new_and_says_the_same(kind, processor):
    net, store = model(kind), PrefixStore(every=16)
    rng = np.random.RandomState(11)
    first = rng.randint(3, 97, 50).tolist()
    said = talk(net, processor, first, prefix_store=store)
    same(said, talk(net, processor, first))
    assert said[2].cached_tokens == 0 and len(store) == 1
    follow = [*first, *said[0][:5], *rng.randint(3, 97, 9).tolist()]
    again = talk(net, processor, follow, prefix_store=store)
    same(again, talk(net, processor, follow))
    # A memory that can be trimmed is reused to the last shared token; the others from the end of the last prompt.
    assert again[2].cached_tokens == (common([*first, *said[0]], follow) if trims(kind) else 49) or moves(kind)
    branch = [*first[:40], 3 + first[40] % 90, *rng.randint(3, 97, 9).tolist()]
    third = talk(net, processor, branch, prefix_store=store)
    same(third, talk(net, processor, branch))
    assert third[2].cached_tokens == (common(first, branch) if trims(kind) else 32) or moves(kind)
    assert again[2].cached_tokens >= 49 and third[2].cached_tokens >= 32
    assert store.hits == 2 and store.misses == 1


def common(a, b):
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)


def parts(kind: str) -> list:
    return [part for layer in model(kind).make_cache() for part in getattr(layer, "parts", [layer])]


def trims(kind: str) -> bool:
    return all(type(part) is KVCache for part in parts(kind))


def moves(kind: str) -> bool:
    """Whether some layers can be trimmed for a while: until their window moves on."""
    return any(part.window for part in parts(kind)) and not any(part.kind == "recurrent" for part in parts(kind))


@pytest.mark.parametrize("settings", [dict(max_kv_size=16), dict(kv_bits=8, kv_group_size=32, quantized_kv_start=0)])
def test_bounded_and_packed_caches_are_reused_too(settings, processor):
    net, store, rng = model("attention"), PrefixStore(), np.random.RandomState(3)
    first = rng.randint(3, 97, 40).tolist()
    said = talk(net, processor, first, prefix_store=store, **settings)
    follow = [*first, *said[0][:5], *rng.randint(3, 97, 9).tolist()]
    again = talk(net, processor, follow, prefix_store=store, **settings)
    same(again, talk(net, processor, follow, **settings))
    assert again[2].cached_tokens >= 39
    assert talk(net, processor, follow, prefix_store=store)[2].cached_tokens == 0  # other settings, another memory


def test_processors_see_the_reused_tokens(processor):
    net, store = model("delta"), PrefixStore()
    first = np.random.RandomState(4).randint(3, 97, 30).tolist()
    more = dict(repetition_penalty=1.7, repetition_context_size=25)
    said = talk(net, processor, first, prefix_store=store, **more)
    follow = [*first, *said[0][:3], 5, 6]
    again = talk(net, processor, follow, prefix_store=store, **more)
    assert again[2].cached_tokens == 29
    same(again, talk(net, processor, follow, **more))


def test_a_chat_goes_on_where_its_last_turn_ended(tmp_path):
    net, processor = load(checkpoint(tmp_path / "llama", max_position_embeddings=4096))
    hybrid, store = model("delta"), PrefixStore(every=10**6)
    messages = [{"role": "user", "content": "Hello there, how are you?"}]
    rendered = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=False)
    prompt = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    assert len(rendered) < len(prompt)
    for _ in stream_generate(net, processor, messages, prefix_store=store, max_tokens=4):
        pass
    store.clear()

    class Small:
        """The hybrid under the tokenizer of bytes: its vocabulary is smaller, so ids are folded into it."""

        config, layers, parameters = None, hybrid.layers, hybrid.parameters
        make_cache = staticmethod(hybrid.make_cache)

        def __call__(self, tokens, cache):
            return hybrid(tokens % 97, cache=cache)

    for _ in stream_generate(Small(), processor, messages, prefix_store=store, max_tokens=4):
        pass
    (entry,) = store.entries(store.key(Small()))
    # What only opens the answer may be missing from the next prompt: there is a checkpoint before it.
    assert sorted(entry.checkpoints) == [len(rendered), len(prompt) - 1]


def entry(length: int, size: int = 10, kind=KVCache) -> State:
    """A state of one layer of ``kind`` that has read ``length`` tokens."""
    cache = kind() if kind is KVCache else kind(1) if kind is RecurrentCache else kind(8)
    if kind is RecurrentCache:
        cache[0] = mx.zeros((1, size))
        cache.advance(length)
    else:
        cache.update_and_fetch(mx.zeros((1, 1, length, size)), mx.zeros((1, 1, length, size)))
    return State([cache])


def test_the_least_recently_used_goes_first():
    one = entry(10).nbytes + 10 * 8
    store = PrefixStore(max_bytes=3 * one)
    for first in (1, 2, 3):
        assert store.insert("m", [first] * 10, entry(10))
    assert len(store) == 3 and store.nbytes == 3 * one
    assert store.fetch("m", [1] * 12)[1] == 10  # used again
    assert store.insert("m", [4] * 10, entry(10))
    assert [store.fetch("m", [n] * 12)[1] for n in (1, 2, 3, 4)] == [10, 0, 10, 10]
    assert store.nbytes <= store.max_bytes
    assert not PrefixStore(max_bytes=one - 1).insert("m", [1] * 10, entry(10))
    assert (store.hits, store.misses, store.reused_tokens) == (4, 1, 40)


def test_a_longer_entry_takes_the_place_of_its_beginning():
    store = PrefixStore()
    store.insert("m", [1, 2, 3], entry(3))
    store.insert("m", [1, 2, 3, 4, 5], entry(5))
    assert len(store) == 1 and store.fetch("m", [1, 2, 3, 9])[1] == 3
    assert store.insert("m", [1, 2], entry(2)) and len(store) == 1
    store.insert("m", [1, 2, 3], entry(3, kind=RecurrentCache))
    hybrid = PrefixStore()
    hybrid.insert("m", [1, 2, 3], entry(3, kind=RecurrentCache))
    hybrid.insert("m", [1, 2, 3, 4, 5], entry(5, kind=RecurrentCache))
    state, at = hybrid.fetch("m", [1, 2, 3, 4, 9])
    assert len(hybrid) == 1 and at == 3 and state.offset == state[0].offset == 3
    assert hybrid.fetch("m", [1, 2, 9]) == (None, 0)


def test_the_last_token_is_always_left_to_read():
    store = PrefixStore()
    store.insert("m", [1, 2, 3], entry(3))
    assert store.fetch("m", [1, 2, 3])[1] == 2
    assert store.fetch("m", [1]) == (None, 0)
    assert store.fetch("other", [1, 2, 3]) == (None, 0)


def test_checkpoints_are_thinned_where_they_are_old_and_dense():
    store, checkpoints = PrefixStore(most_checkpoints=4), {}
    for at in range(10, 161, 10):
        checkpoints[at] = entry(at, kind=RecurrentCache).checkpoint()
    store.insert("m", list(range(200)), entry(200, kind=RecurrentCache), checkpoints)
    (kept,) = store.entries("m")
    assert len(kept.checkpoints) == 4 and max(kept.checkpoints) >= 150
    places = sorted(kept.checkpoints)
    assert places[0] <= 100  # one of the older half is left
    small = PrefixStore(max_bytes=entry(200, kind=RecurrentCache).nbytes + 200 * 8 + 85)
    small.insert("m", list(range(200)), entry(200, kind=RecurrentCache), checkpoints)
    assert len(small.entries("m")[0].checkpoints) == 2


def test_a_moved_window_comes_back_to_a_checkpoint():
    store, state = PrefixStore(), State([SlidingCache(8)])
    checkpoints = {}
    for start in range(0, 600, 100):
        tokens = mx.arange(start, start + 100).reshape(1, 1, -1, 1).astype(mx.float32)
        state[0].update_and_fetch(tokens, tokens)
        state.offset += 100
        if state.offset == 100:
            checkpoints[100] = state.checkpoint()
    assert state[0].stored < 600 - 190  # the window has moved: what is left of the past doesn't reach back this far
    store.insert("m", list(range(600)), state, checkpoints)
    got, at = store.fetch("m", [*range(190), 0, 0])
    assert at == 100
    new = mx.zeros((1, 1, 1, 1))
    assert got[0].update_and_fetch(new, new)[0].reshape(-1).tolist() == [*range(93, 100), 0]
    assert store.fetch("m", [*range(599), 0])[1] == 599  # within the slack


def test_a_fingerprint_tells_weights_apart():
    import copy

    from mlx.utils import tree_map

    net = model("attention")
    other = copy.deepcopy(net)
    before = fingerprint(net)
    assert fingerprint(other) == before == fingerprint(net)
    name = "v_proj"
    layer = other.layers[2].self_attn[name]
    layer.weight = layer.weight + 1e-3
    assert fingerprint(other) != before
    other.update(tree_map(lambda w: w.astype(mx.bfloat16), other.parameters()))
    assert fingerprint(other) != before
    assert len({fingerprint(model(kind)) for kind in ("attention", "delta", "mamba2")}) == 3


@pytest.mark.parametrize("kind", ["attention", "delta", "sliding", "beside", "shared", "composite"])
def test_a_store_on_disk(kind, processor, tmp_path):
    net, store, rng = model(kind), PrefixStore(every=8), np.random.RandomState(8)
    prompts = [rng.randint(3, 97, 40).tolist() for _ in range(2)]
    said = [talk(net, processor, p, prefix_store=store) for p in prompts]
    assert store.save(tmp_path / "prefixes", net) == 2
    assert store.save(tmp_path / "prefixes", net) == 2  # in place of the first
    fresh = PrefixStore()
    assert fresh.load(tmp_path / "prefixes", net) == len(fresh) == 2
    for prompt, (tokens, _, _) in zip(prompts, said, strict=True):
        for follow in ([*prompt, *tokens[:4], 7, 8], [*prompt[:30], 9, 9]):
            again = talk(net, processor, follow, prefix_store=fresh)
            same(again, talk(net, processor, follow))
            assert again[2].cached_tokens == talk(net, processor, follow, prefix_store=store)[2].cached_tokens
    with pytest.raises(MLXLMError, match="another model"):
        PrefixStore().load(tmp_path / "prefixes", model("mamba2"))
    with pytest.raises(MLXLMError, match="another model"):
        PrefixStore().load(tmp_path / "prefixes", net, max_kv_size=8)


def test_a_damaged_store_is_told(processor, tmp_path):
    net, store, rng = model("delta"), PrefixStore(every=8), random.Random(1)
    talk(net, processor, list(range(5, 45)), prefix_store=store)
    store.save(tmp_path, net)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    for _ in range(60):
        file = rng.choice(files)
        whole = file.read_bytes()
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(min(len(data), 600))] = rng.randrange(256)
        file.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        fresh = PrefixStore()
        try:
            fresh.load(tmp_path, net)
        except MLXLMError:
            assert len(fresh) == 0
        file.write_bytes(whole)
    assert PrefixStore().load(tmp_path, net) == 1
    with pytest.raises(MLXLMError, match="can't be read"):
        PrefixStore().load(tmp_path / "none", net)
    (tmp_path / "file").write_text("")
    with pytest.raises(MLXLMError, match="can't be written"):
        store.save(tmp_path / "file" / "below", net)


def test_threads_share_a_store(processor):
    net, store = model("delta"), PrefixStore(every=8)
    prompts = [[*range(5, 30), n] for n in range(40, 46)]
    expected = [talk(net, processor, p)[0] for p in prompts]
    found = {}

    def work(n):
        for _ in range(3):
            found.setdefault(n, []).append(talk(net, processor, prompts[n], prefix_store=store)[0])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [expected[n]] * 3 for n in range(6)}
    assert store.hits >= 12


def test_wrong_stores_are_told(processor):
    net = model("attention")
    with pytest.raises(GenerationError, match="PrefixStore"):
        stream_generate(net, processor, [5, 6], prefix_store={})
    with pytest.raises(GenerationError, match="one or the other"):
        stream_generate(net, processor, [5, 6], prefix_store=PrefixStore(), cache=net.make_cache())
    with pytest.raises(GenerationError, match="max_bytes"):
        PrefixStore(-1)
