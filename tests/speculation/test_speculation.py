"""Drafts change when tokens are computed and nothing else, whatever a layer's memory is and however wrong they are."""

import re
import tomllib
from functools import lru_cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import checkpoint
from tiny_models import KINDS, model

from mlxlm.cache import KVCache, State
from mlxlm.errors import GenerationError
from mlxlm.generate import stream_generate
from mlxlm.generate.loop import TokenIterator
from mlxlm.generate.prefix_store import PrefixStore
from mlxlm.generate.sample import make_sampler
from mlxlm.generate.spec_drafts import DraftModel, FirstOf, Pace, PromptLookup, Tape, Worth
from mlxlm.generate.speculative import SpeculativeIterator
from mlxlm.load import load

ROOT = Path(__file__).resolve().parents[2]
PROMPT = np.random.RandomState(21).randint(3, 97, 30).tolist()
# A case of every type of the registry that has layers with a recurrent state.
RECURRENT = {
    "baichuan_m1": "baichuan_m1-own-heads-in-windows",
    "falcon_h1": "falcon_h1-multipliers",
    "falcon_mamba": "falcon_mamba-plain",
    "granitemoehybrid": "granitemoehybrid-experts",
    "jamba": "jamba-experts",
    "lfm2": "lfm2-convolutions",
    "lfm2_moe": "lfm2_moe-biased-choice",
    "mamba": "mamba-plain",
    "mamba2": "mamba2-groups-biases-tied",
    "minimax": "minimax-lightning",
    "nemotron_h": "nemotron_h-moe",
    "qwen3_5": "qwen3_5-beside-vision",
    "qwen3_5_moe": "qwen3_5_moe_text-types",
    "qwen3_5_moe_text": "qwen3_5_moe_text-types",
    "qwen3_5_text": "qwen3_5_text-tied",
    "qwen3_next": "qwen3_next-delta-moe",
}
ALIASES = {"jamba_3b": "jamba"}


def test_every_recurrent_type_is_tried():
    types = tomllib.loads((ROOT / "registries" / "llm.toml").read_text())["types"]
    layers = re.compile(r"\b(RecurrentCache|Mamba2?|GatedDeltaNet|ShortConv)\b")
    sources = {m: (ROOT / "mlxlm" / "models" / f"{m}.py").read_text() for m in set(types.values())}
    own = {m for m, source in sources.items() if layers.search(source)}
    build = re.compile(rf"\b({'|'.join(own)})\.(build|blocks)\b")
    built_like = {m for m, source in sources.items() if build.search(source)}
    recurrent = {t for t, m in types.items() if m in own | built_like}
    assert {ALIASES.get(t, t) for t in recurrent} == set(RECURRENT)


class Guess:
    """Knows what will be said, and gets one token in ``wrong`` wrong, by chance."""

    def __init__(self, known: list[int], wrong: int, seed: int = 0):
        self.known, self.wrong, self.random = known, wrong, np.random.RandomState(seed)
        self.lengths: list[int] = []

    def propose(self, tokens, most, sampler):
        self.lengths.append(most)
        drafts = self.known[len(tokens) : len(tokens) + most]
        return [d if self.random.randint(self.wrong) else 3 + (d + 1) % 90 for d in drafts]


def plain(net, prompt=PROMPT, count=40, **settings):
    """(tokens, logits) without drafts."""
    found = list(TokenIterator(prompt, net, max_tokens=count, beyond_context=True, **settings))
    return [t for t, _ in found], np.stack([np.array(row) for _, row in found])


@lru_cache(maxsize=64)
def said(name):
    return plain(model(name))


def speculated(net, drafter, prompt=PROMPT, count=40, most=6, **settings):
    it = SpeculativeIterator(prompt, net, drafter=drafter, num_draft_tokens=most, max_tokens=count,
                             beyond_context=True, **settings)
    found = list(it)
    return it, [t for t, _ in found], np.stack([np.array(row) for _, row in found])


def same(found, expected):
    """The same tokens, but where the plain run itself has a tie within rounding: then all after it may differ."""
    tokens, logits = found
    bound = 5e-5 * expected[1].std()
    for token, row, want, other in zip(tokens, logits, *expected, strict=True):
        assert np.abs(row - other).max() <= bound
        assert token == want


@pytest.mark.parametrize("wrong", [1, 2, 4, 10**9])
@pytest.mark.parametrize("name", sorted({*KINDS.values(), *RECURRENT.values()}))
def test_greedy_text_is_the_same(name, wrong):
    net, expected = model(name), said(name)
    it, *found = speculated(net, Guess([*PROMPT, *expected[0]], wrong))
    same(found, expected)
    assert it.accepted <= it.proposed
    if wrong == 1:
        assert it.accepted == 0 and it.passes == 39
    elif wrong == 10**9:
        assert it.accepted == it.proposed and it.passes <= 9
    else:
        assert 0 < it.accepted < it.proposed
    # The memory is that of a plain run: going on says the same.
    known = [*PROMPT, *found[0]]
    rest = [*known[it.cache.offset :], 5]
    fresh = net.make_cache()
    want = net(mx.array([[*known, 5]]), cache=fresh)[0, -1]
    got = net(mx.array([rest]), cache=it.cache)[0, -1]
    assert np.abs(np.array(got - want)).max() <= 5e-5 * np.std(np.array(want))


@pytest.mark.parametrize("name", ["llama-llama3-rope-biases-tied", "gemma3_text-pattern-2", "qwen3_next-delta-moe"])
@pytest.mark.parametrize("settings", [dict(temp=1.0), dict(temp=0.7, top_p=0.9, min_p=0.02), dict(temp=1.3, top_k=9),
                                      dict(temp=1.0, xtc_probability=0.5, xtc_threshold=0.05)])
def test_sampled_text_with_a_seed_is_the_same(name, settings):
    net = model(name)
    expected = plain(net, sampler=make_sampler(**settings, seed=9))
    for drafter in (Guess([*PROMPT, *expected[0]], 3), DraftModel(net)):
        it, *found = speculated(net, drafter, sampler=make_sampler(**settings, seed=9))
        same(found, expected)
        assert it.accepted > 0
    # A draft with the same weights and the same random numbers is always right.
    assert it.accepted == it.proposed


def test_sampled_text_has_the_models_distribution(tmp_path):
    """Counts of the first two tokens of an answer, without a seed that both share, against the exact probabilities.

    Each count is binomial. With n = 1500 and at least 5 expected, the normal tail bounds a deviation of 4.5 standard
    deviations by 7e-6 on either side; over at most 64 outcomes that is a chance of 1e-3 for a right program to fail,
    once and for all, as the seeds are fixed. A program that keeps every draft is off by far more.
    """
    from mlxlm.load import load_model

    folder = checkpoint(tmp_path / "m", num_hidden_layers=1, hidden_size=32, intermediate_size=32)
    config = (folder / "config.json").read_text()
    arrays = mx.load(str(folder / "model.safetensors"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = arrays[name][:8]
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "pt"})
    (folder / "config.json").write_text(re.sub(r'"vocab_size": \d+', '"vocab_size": 8', config))
    net, prompt, n = load_model(folder), [1, 5, 2], 1500
    temperature = 1.5

    def probabilities(ids):
        return np.array(mx.softmax(net(mx.array([ids]))[0, -1] / temperature))

    first = probabilities(prompt)
    second = np.stack([probabilities([*prompt, t]) for t in range(8)])
    third = {(a, b): probabilities([*prompt, a, b]) for a in range(8) for b in range(8)}
    counts, thirds = np.zeros((8, 8)), np.zeros((8, 8, 8))
    likely = Guess([*prompt, 0, 0, 0, 0], 10**9)
    for seed in range(n):
        likely.known = [*prompt, 0, int(second.mean(0).argmax()), 3]
        _, tokens, _ = speculated(net, likely, prompt, 3, sampler=make_sampler(temp=temperature, seed=seed))
        counts[tokens[0], tokens[1]] += 1
        thirds[tuple(tokens)] += 1
    for found, p in ((counts, first[:, None] * second),
                     (thirds.sum((0, 1)), sum(first[a] * second[a, b] * third[a, b] for a, b in third))):
        seen = p * n >= 5
        assert seen.sum() >= 6
        assert (np.abs(found - n * p)[seen] <= 4.5 * np.sqrt(n * p * (1 - p))[seen]).all()


def test_a_draft_model_that_is_the_model_is_always_right():
    for name in ("llama-llama3-rope-biases-tied", "gemma3_text-pattern-2", "falcon_h1-multipliers"):
        net, expected = model(name), said(name)
        it, *found = speculated(net, DraftModel(net))
        same(found, expected)
        assert it.accepted == it.proposed and it.passes <= 9


def test_another_model_drafts_for_any_kind():
    """A hybrid guesses for attention and the other way round: both come back from guesses that are wrong."""
    for name, other in (("llama-llama3-rope-biases-tied", "qwen3_next-delta-moe"),
                        ("qwen3_next-delta-moe", "llama-llama3-rope-biases-tied"),
                        ("gemma3_text-pattern-2", "mamba2-groups-biases-tied")):
        it, *found = speculated(model(name), DraftModel(model(other)))
        same(found, said(name))
        assert it.proposed > it.accepted


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """(model, processor) of a tiny llama over bytes."""
    return load(checkpoint(tmp_path_factory.mktemp("llama"), max_position_embeddings=2048))


MESSAGES = [{"role": "user", "content": "Say it again: one two three one two three one two"}]


def text(talker, **settings):
    stream = stream_generate(*talker, MESSAGES, max_tokens=60, **settings)
    pieces = list(stream)
    return "".join(p.text for p in pieces), pieces[-1].finish_reason, stream


@pytest.mark.parametrize("settings", [
    dict(), dict(repetition_penalty=1.4, repetition_context_size=12), dict(temperature=0.9, seed=4),
    dict(logit_bias={105: 6.0, 110: 6.0}, frequency_penalty=0.6), dict(temperature=1.0, top_p=0.8, seed=2),
    dict(logits_processors=[lambda tokens, logits: logits + 3.0 * (mx.arange(logits.shape[-1]) == tokens.size % 50)]),
])
@pytest.mark.parametrize("draft", ["lookup", "self"])
def test_processors_and_streams_see_what_they_would(talker, settings, draft):
    expected = text(talker, **settings)
    found = text(talker, draft=talker if draft == "self" else draft, num_draft_tokens=5, **settings)
    assert found[:2] == expected[:2]
    assert found[2].tokens == expected[2].tokens
    stats = found[2].stats
    assert 0 <= stats.accepted_tokens <= stats.draft_tokens
    if draft == "self" and not {"logit_bias", "logits_processors", "repetition_penalty"} & settings.keys():
        assert stats.acceptance_rate > 0.5  # the draft doesn't know of penalties and biases


def test_a_stop_string_ends_in_the_middle_of_a_draft(talker):
    whole, _, stream = text(talker, logit_bias={105: 9.0, 110: 9.0, 120: 8.5})
    stop = whole[10:13]
    expected = text(talker, stop=stop, logit_bias={105: 9.0, 110: 9.0, 120: 8.5})
    found = text(talker, stop=stop, logit_bias={105: 9.0, 110: 9.0, 120: 8.5}, draft=talker, num_draft_tokens=16)
    assert found[:2] == expected[:2] and found[1] == "stop"
    stream = found[2]
    held = [*stream.prompt.tolist(), *stream.tokens]
    assert stream.cache.offset <= len(held)
    left = [*held[stream.cache.offset :], 7]
    got = talker[0](mx.array([left]), cache=stream.cache)[0, -1]
    want = talker[0](mx.array([[*held, 7]]))[0, -1]
    assert np.abs(np.array(got - want)).max() <= 5e-5 * np.std(np.array(want))


@pytest.mark.parametrize("name", ["llama-llama3-rope-biases-tied", "gemma3_text-pattern-2", "qwen3_next-delta-moe"])
@pytest.mark.parametrize("taken", [1, 2, 5, 9])
def test_an_early_end_leaves_a_memory_of_listed_tokens(name, taken):
    net, expected = model(name), said(name)
    it = SpeculativeIterator(PROMPT, net, drafter=Guess([*PROMPT, *expected[0]], 10**9), num_draft_tokens=8,
                             beyond_context=True)
    tokens = iter(it)
    got = [next(tokens)[0] for _ in range(taken)]
    tokens.close()
    assert got == expected[0][:taken] == it.tokens
    held = [*PROMPT, *got]
    assert it.cache.offset <= len(held)
    want = net(mx.array([[*held, 7]]))[0, -1]
    found = net(mx.array([[*held[it.cache.offset :], 7]]), cache=it.cache)[0, -1]
    assert np.abs(np.array(found - want)).max() <= 5e-5 * np.std(np.array(want))


def test_cancelling_ends_within_a_draft():
    net, expected = model("llama-llama3-rope-biases-tied"), said("llama-llama3-rope-biases-tied")
    it = SpeculativeIterator(PROMPT, net, drafter=Guess([*PROMPT, *expected[0]], 10**9), num_draft_tokens=8,
                             beyond_context=True, cancel=lambda: len(it.tokens) >= 4)
    assert [t for t, _ in it] == expected[0][:4]


def test_it_goes_on_from_a_cache_and_from_a_store(talker):
    net, processor = talker
    store = PrefixStore()
    first = text(talker, prefix_store=store, prompt_lookup=True)
    assert first[0] == text(talker)[0]
    messages = [*MESSAGES, {"role": "assistant", "content": first[0]}, {"role": "user", "content": "And three one two"}]
    expected = list(stream_generate(net, processor, messages, max_tokens=30))
    stream = stream_generate(net, processor, messages, max_tokens=30, prefix_store=store, draft=talker)
    assert [p.token for p in stream] == [p.token for p in expected]
    assert stream.stats.cached_tokens > 0 and stream.stats.acceptance_rate > 0.2
    cache = net.make_cache()
    for _ in stream_generate(net, processor, "one two ", max_tokens=3, cache=cache):
        pass
    cache.trim(cache.offset - 8)
    whole = stream_generate(net, processor, "one two three one two", max_tokens=20)
    want = [p.token for p in whole]
    rest = whole.prompt.tolist()[8:]
    assert [p.token for p in stream_generate(net, processor, rest, max_tokens=20, cache=cache, draft="lookup")] == want


@pytest.mark.parametrize("start", [0, 35, 40, 10**6])
def test_packed_caches_begin_on_their_token(start, tmp_path):
    from parity import reference

    from mlxlm.load import load_model

    case = reference.Case("llama", "wide-heads", dict(head_dim=64))
    net = load_model(reference.save(reference.build(case), tmp_path / "m"))
    settings = dict(kv_bits=4, kv_group_size=32, quantized_kv_start=start)
    expected = plain(net, **settings)
    it, *found = speculated(net, Guess([*PROMPT, *expected[0]], 3), **settings)
    assert found[0] == expected[0]
    assert it.accepted > 0


def test_the_pace_follows_what_is_accepted():
    pace = Pace(16)
    lengths = []
    for _ in range(4):
        lengths.append(pace.next())
        pace.judge(lengths[-1], lengths[-1])
    assert lengths == [4, 8, 16, 16]
    pace.judge(16, 2)
    assert pace.next() == 3
    for _ in range(3):
        pace.judge(pace.next(), 0)
    assert [pace.next() for _ in range(9)] == [0] * 8 + [1]  # a rest, then another try
    pace.judge(1, 1)
    assert pace.next() == 2
    assert Pace(2).next() == 2


@pytest.mark.parametrize("slow", [True, False])
def test_drafts_that_take_longer_than_they_save_are_left_out(slow):
    """By a clock of the test's own: a pass takes 1 second, and the draft of 3 tokens 9 seconds or none."""
    net, now = model("attention"), [0.0]

    def clock():
        now[0] += 0.5
        return now[0]

    class Timed(Guess):
        def propose(self, tokens, most, sampler):
            now[0] += 9 if slow else 0
            return super().propose(tokens, most, sampler)

    expected = plain(net, count=90)
    drafter = Timed([*PROMPT, *expected[0]], 10**9)
    it = SpeculativeIterator(PROMPT, net, drafter=drafter, num_draft_tokens=3, max_tokens=90, beyond_context=True)
    it.clock = clock
    assert [t for t, _ in it] == expected[0]
    trial = 1 + Worth.TRIAL
    if slow:  # a trial of 4 tokens a pass, 3 + 32 tokens without, and another trial begins
        assert trial < len(drafter.lengths) < trial + 8
    else:
        assert len(drafter.lengths) == it.passes - Worth.WITHOUT


def test_each_rest_is_longer_until_drafts_pay_again():
    worth, rests = Worth(), []
    for seconds in (4.0, 4.0, 4.0, 0.5, 4.0):
        for _ in range(1 + Worth.TRIAL):
            assert worth.drafts()
            worth.note(seconds, 1, True)
        rests.append(0)
        while not worth.drafts():
            worth.note(1.0, 1, False)
            rests[-1] += 1
    # The first passes without a draft are those of the comparison, and a rest follows at once.
    assert rests == [Worth.WITHOUT + Worth.REST, 2 * Worth.REST, 4 * Worth.REST, 0, Worth.REST]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_a_lookup_finds_the_latest_of_the_longest_agreements(tokens, most):
    lookup = PromptLookup(3, 1)
    for end in range(1, len(tokens) + 1):
        known, best = tokens[:end], []
        for n in range(3, 0, -1):
            places = [i for i in range(n, end) if known[i - n : i] == known[-n:]]
            if places:
                best = known[places[-1] : places[-1] + most]
                break
        assert lookup.propose(known, most, None) == best
    other = PromptLookup(2, 2)
    assert other.propose([1, 2, 9, 1, 2], 2, None) == [9, 1]
    assert other.propose([4, 4], 2, None) == []  # another text


def test_the_first_drafter_with_a_guess_is_heard():
    both = FirstOf(PromptLookup(2, 2), Guess([1, 2, 3, 7], 10**9))
    assert both.propose([1, 2, 3], 1, None) == [7]
    assert both.propose([8, 9, 5, 8, 9], 1, None) == [5]


def test_a_tape_comes_back_to_where_texts_part():
    for name in ("llama-llama3-rope-biases-tied", "mamba2-groups-biases-tied", "gemma3_text-pattern-2"):
        net = model(name)
        tape, ids = Tape(net), PROMPT
        for tokens in (ids[:20], ids[:22], [*ids[:21], 5, 6], [*ids[:3], 9, 9], ids):
            tape.keep(tokens)
            logits = tape.feed(tokens[len(tape.read) :])
            tape.mark(4)
            assert tape.read == tokens and tape.state.offset == len(tokens)
            want = net(mx.array([tokens]))[:, -1]
            assert np.abs(np.array(logits - want)).max() <= 5e-5 * np.std(np.array(want))


def test_what_can_not_be_done_is_told(talker):
    net, processor = talker

    class Odd:
        layers = net.layers
        config = net.config

        def make_cache(self):
            return [KVCache()]

        def __call__(self, tokens, cache):
            return net(tokens, cache=State(cache))

    with pytest.raises(GenerationError, match="taken back"):
        SpeculativeIterator([5], Odd(), drafter=PromptLookup())
    with pytest.raises(GenerationError, match="drafter"):
        SpeculativeIterator([5], net, drafter=3)
    for wrong in (dict(num_draft_tokens=0), dict(draft=5), dict(draft="mtp"), dict(draft="other")):
        with pytest.raises(GenerationError):
            stream_generate(net, processor, "Hello", **wrong)


@pytest.mark.parametrize("name", ["stablelm", "mamba", "cohere2"])
def test_modules_of_another_package_come_back_too(name):
    """mlx-lm's caches are copied, as a rotating buffer or a recurrent state of its own can't be trimmed."""
    from mlxlm.registry import LLMTypeRegistry

    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {**shape, "num_attention_heads": 4, "num_key_value_heads": 2, "layer_norm_eps": 1e-5, "rope_theta": 5000.0}
    configs = {
        "stablelm": {**heads, "model_type": "stablelm", "partial_rotary_factor": 0.25, "use_qkv_bias": True},
        "mamba": {**shape, "model_type": "other_mamba", "state_size": 8, "conv_kernel": 4, "use_bias": False,
                  "use_conv_bias": True, "time_step_rank": 4},
        "cohere2": {**heads, "model_type": "cohere2", "head_dim": 8, "logit_scale": 0.5, "attention_bias": False,
                    "layer_norm_bias": False, "sliding_window": 4, "sliding_window_pattern": 2},
    }
    registry = LLMTypeRegistry()
    registry._tables = {"types": {}, "fallback": {"other_mamba": "mamba"}}
    mx.random.seed(1)
    net = registry.create(configs[name])
    prompt = [p % 64 for p in PROMPT]
    expected = plain(net, prompt, 25)
    for wrong in (1, 2, 10**9):
        it, *found = speculated(net, Guess([*prompt, *expected[0]], wrong), prompt, 25)
        same(found, expected)
        assert (it.accepted > 0) == (wrong > 1)
