"""The loop, on a model whose every token can be computed by hand: nothing lost, nothing read twice, in any thread."""
import signal
import threading

import mlx.core as mx
import numpy as np
import pytest
from generation_fakes import VOCAB, FakeState, ScriptModel, SumModel, sum_model_tokens

from mlxlm.errors import GenerationError, MLXLMError
from mlxlm.generate import TokenIterator, generate_step, make_sampler

PROMPT = [256, 5, 77, 130, 9, 9, 200]


def tokens_of(model, prompt=PROMPT, **options) -> list[int]:
    return [token for token, _ in generate_step(prompt, model, **options)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 6, 7, 512])
@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_every_chunking_says_the_same(chunk, length):
    prompt, model = [(i * 37 + 11) % VOCAB for i in range(length)], SumModel()
    assert tokens_of(model, prompt, max_tokens=30, prefill_step_size=chunk) == sum_model_tokens(prompt, 30)
    prefill, rest = (length - 1) // chunk, (length - 1) % chunk
    # One call for the prompt's last token and one for each new token but the last, which needs no successor.
    assert model.calls == [chunk] * prefill + [rest] * (rest > 0) + [1] * 30


@pytest.mark.parametrize("prompt", [PROMPT, tuple(PROMPT), np.array(PROMPT), np.array(PROMPT, np.uint16)[None],
                                    mx.array(PROMPT), mx.array([PROMPT], mx.uint32)])
def test_ids_come_in_any_container(prompt):
    assert tokens_of(SumModel(), prompt, max_tokens=4) == sum_model_tokens(PROMPT, 4)


def test_a_cache_carries_on_where_it_was():
    model, first, second = SumModel(), PROMPT, [1, 2, 3]
    cache = model.make_cache()
    run = TokenIterator(first, model, max_tokens=5, cache=cache)
    assert [token for token, _ in run] == run.tokens == sum_model_tokens(first, 5)
    assert cache.positions == [len(first) + 4] * 2
    seen = first + run.tokens[:4]
    again = TokenIterator(second, model, max_tokens=5, cache=cache)
    assert [token for token, _ in again] == sum_model_tokens(seen + second, 5)
    assert again.cached_tokens == len(seen)


def test_one_token_is_in_flight():
    model = SumModel()
    steps = generate_step(PROMPT, model, max_tokens=10)
    for count in range(1, 4):
        next(steps)
        # Two chunks of prompt, and while the consumer holds token n, token n + 1 is being computed.
        assert len(model.calls) == 2 + count


def test_no_tokens_asked_reads_the_prompt_and_stops():
    model = SumModel()
    run = TokenIterator(PROMPT, model, max_tokens=0)
    assert list(run) == []
    assert run.cache.positions == [len(PROMPT)] * 2


def test_logprobs_are_float32_and_normalized_whatever_the_model_computes_in():
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        for sampler in (None, make_sampler(0.7, seed=1)):
            steps = generate_step(PROMPT, SumModel(dtype=dtype), max_tokens=3, sampler=sampler)
            for _, logprobs in steps:
                assert logprobs.dtype == mx.float32 and logprobs.shape == (VOCAB,)
                assert abs(float(np.exp(np.array(logprobs, np.float64)).sum()) - 1) < 1e-5


def test_processors_see_all_tokens_so_far_and_change_the_logits():
    seen = []

    def only_even(tokens, logits):
        seen.append(tokens.tolist())
        assert logits.shape == (1, VOCAB) and logits.dtype == mx.float32
        return mx.where(mx.arange(VOCAB) % 2 == 0, logits, -mx.inf)

    out = list(generate_step(PROMPT, SumModel(dtype=mx.float16), max_tokens=6, logits_processors=[only_even],
                             prefill_step_size=3))
    tokens = [token for token, _ in out]
    assert all(token % 2 == 0 for token in tokens)
    assert seen == [PROMPT + tokens[:n] for n in range(6)]
    assert all(np.isneginf(np.array(logprobs)[1::2]).all() for _, logprobs in out)


def test_the_sampler_gets_logprobs_and_decides():
    given = []

    def second_best(logprobs):
        given.append(logprobs)
        return mx.argsort(-logprobs, axis=-1)[:, 1]

    tokens = tokens_of(ScriptModel([10, 20, 30], len(PROMPT)), max_tokens=3, sampler=second_best)
    assert [abs(a - b) for a, b in zip(tokens, [10, 20, 30], strict=True)] == [1, 1, 1]
    assert all(abs(float(mx.exp(g).sum().item()) - 1) < 1e-5 for g in given)


def test_progress_is_told_by_chunks():
    told = []
    tokens_of(SumModel(), max_tokens=1, prefill_step_size=4, prompt_progress_callback=lambda *n: told.append(n))
    assert told == [(0, 7), (4, 7), (6, 7), (7, 7)]


def test_cancel_ends_between_steps_in_prefill_and_after():
    model, stop = SumModel(), threading.Event()
    stop.set()
    run = TokenIterator(PROMPT, model, cancel=stop.is_set)
    assert list(run) == [] and run.cache.offset == 0
    stop.clear()
    told = lambda done, total: stop.set() if done == 4 else None  # noqa: E731
    run = TokenIterator(PROMPT, model, cancel=stop.is_set, prefill_step_size=2, prompt_progress_callback=told)
    assert list(run) == [] and run.cache.positions == [4, 4]
    stop.clear()
    run = TokenIterator(PROMPT, model, cancel=stop.is_set)
    for _ in run:
        if len(run.tokens) == 3:
            stop.set()
    assert run.tokens == sum_model_tokens(PROMPT, 3)
    assert run.cache.positions == [len(PROMPT) + 3] * 2


def totals(cache) -> list[int]:
    return [layer.total.item() for layer in cache]


@pytest.mark.parametrize("when", range(1, 8))
def test_ctrl_c_within_a_step_leaves_the_cache_whole(when):
    """SIGINT arrives when the first layer has moved on and the last one has not."""
    model, calls = SumModel(), []

    def press():
        calls.append(1)
        if len(calls) == when:
            signal.raise_signal(signal.SIGINT)

    model.before_last_layer = press
    run = TokenIterator(PROMPT, model, max_tokens=50, prefill_step_size=3)
    got = []
    with pytest.raises(KeyboardInterrupt):
        for token, _ in run:
            got.append(token)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    held = (PROMPT + run.tokens)[:run.cache.offset]
    assert len(held) == run.cache.offset and totals(run.cache) == [sum(held)] * 2
    assert got == run.tokens == sum_model_tokens(PROMPT, len(got))
    # What the cache says it holds is enough to go on from.
    model.before_last_layer = lambda: None
    rest = (PROMPT + got)[run.cache.offset:] or [1]
    assert tokens_of(model, rest, cache=run.cache, max_tokens=4) == sum_model_tokens(held + rest, 4)


def test_a_handler_of_the_programs_own_is_left_alone():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        model = SumModel()
        model.before_last_layer = lambda: signal.raise_signal(signal.SIGINT)
        assert tokens_of(model, max_tokens=3) == sum_model_tokens(PROMPT, 3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pressed) == 4


def test_closing_early_leaves_a_cache_that_goes_on():
    model = SumModel()
    run = TokenIterator(PROMPT, model, max_tokens=50)
    steps = iter(run)
    taken = [next(steps)[0] for _ in range(3)]
    steps.close()
    held = (PROMPT + taken)[:run.cache.offset]
    assert held == PROMPT + taken and totals(run.cache) == [sum(held)] * 2
    assert tokens_of(model, [4], cache=run.cache, max_tokens=3) == sum_model_tokens([*held, 4], 3)


def in_threads(*work) -> list:
    results: list = [None] * len(work)

    def call(index, function):
        try:
            results[index] = function()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=call, args=item) for item in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_threads_share_a_model_with_caches_of_their_own():
    model, prompts = SumModel(), [[n, 2 * n, 77] * 5 for n in range(4)]
    mx.eval(model.parameters())
    work = [lambda p=p: tokens_of(model, p, max_tokens=40, prefill_step_size=4) for p in prompts]
    assert in_threads(*work) == [sum_model_tokens(p, 40) for p in prompts]


def test_a_conversation_moves_between_threads():
    model, cache_box = SumModel(), []

    def turn(prompt):
        run = TokenIterator(prompt, model, max_tokens=3, cache=cache_box[0] if cache_box else None)
        cache_box[:] = [run.cache]
        return [token for token, _ in run]

    [first] = in_threads(lambda: turn(PROMPT))
    second = turn([1, 2])
    [third] = in_threads(lambda: turn([3]))
    seen = PROMPT + first[:2] + [1, 2]
    assert first == sum_model_tokens(PROMPT, 3) and second == sum_model_tokens(seen, 3)
    assert third == sum_model_tokens(seen + second[:2] + [3], 3)


def test_one_generation_moves_between_threads():
    steps = generate_step(PROMPT, SumModel(), max_tokens=9, logits_processors=[lambda tokens, logits: logits])
    got = [next(steps)[0], *in_threads(lambda: next(steps)[0], lambda: None)[:1], next(steps)[0]]
    assert got == sum_model_tokens(PROMPT, 3)


@pytest.mark.parametrize(("prompt", "message"), [
    ([], "prompt: empty; expected at least one token"),
    (mx.array([], mx.int32), "prompt: empty"),
    ([1, 2.5], "prompt: not token ids; found list of shape (2,)"),
    (["a"], "prompt: not token ids"),
    (7, "prompt: not token ids; found 7; expected a list or a one-dimensional array of token ids"),
    ([[1, 2], [3]], "prompt: ragged"),
    ([[1, 2], [3, 4]], "prompt: not token ids; found list of shape (2, 2)"),
    (mx.array([1.0]), "prompt: not token ids; found array of shape (1,)"),
    (mx.array([1.0], mx.bfloat16), "prompt: not token ids"),
    ([True], "prompt: not token ids"),
    ([1, 258], "prompt: not in the vocabulary; found token id 258; expected ids of 0 or more and below 258"),
    ([-1, 3], "prompt: not in the vocabulary; found token id -1"),
    ([2**70], "prompt: not token ids"),
])
def test_bad_prompts_are_explained(prompt, message):
    with pytest.raises(GenerationError) as caught:
        generate_step(prompt, SumModel())
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("options", "message"), [
    ({"max_tokens": -2}, "max_tokens: out of range; found -2; expected a whole number of -1 or more"),
    ({"max_tokens": 2.0}, "max_tokens: not a whole number"),
    ({"prefill_step_size": 0}, "prefill_step_size: out of range; found 0"),
    ({"max_kv_size": "big"}, "max_kv_size: not a whole number; found 'big'"),
])
def test_bad_arguments_are_explained(options, message):
    with pytest.raises(GenerationError) as caught:
        generate_step(PROMPT, SumModel(), **options)
    assert str(caught.value).startswith(message)


def test_a_prompt_beyond_the_context_is_refused_unless_allowed():
    with pytest.raises(GenerationError) as caught:
        generate_step(PROMPT, SumModel(context=6))
    assert str(caught.value) == (
        "prompt: longer than the model's context; found 7 tokens; expected at most 6 in all. "
        "Shorten it, pass max_kv_size to forget the oldest tokens, or try beyond_context=True.")
    assert tokens_of(SumModel(context=6), beyond_context=True, max_tokens=3) == sum_model_tokens(PROMPT, 3)
    model = SumModel(context=6)
    assert tokens_of(model, max_kv_size=16, max_tokens=3) == sum_model_tokens(PROMPT, 3)
    assert model.max_kv_size == 16


def test_generation_ends_where_the_context_does():
    model = SumModel(context=10)
    run = TokenIterator(PROMPT, model, max_tokens=-1)
    assert [token for token, _ in run] == sum_model_tokens(PROMPT, 4)
    assert run.cache.offset == 10
    with pytest.raises(GenerationError, match="found 1 tokens after 10 in the cache"):
        generate_step([1], model, cache=run.cache)


def test_logits_that_are_not_numbers_are_an_error():
    model = SumModel()
    model.logits = lambda target: mx.full((*target.shape, VOCAB), mx.nan)
    with pytest.raises(GenerationError, match="NaN"):
        tokens_of(model)


@pytest.mark.parametrize(("option", "message"), [
    ({"sampler": lambda logprobs: logprobs},
     "<lambda>: a wrong result; found shape (1, 258); expected an array of shape (1,)"),
    ({"sampler": lambda logprobs: 5}, "<lambda>: a wrong result; found 5"),
    ({"logits_processors": [lambda tokens, logits: logits[0]]},
     "<lambda>: a wrong result; found shape (258,); expected an array of shape (1, 258)"),
    ({"logits_processors": [lambda tokens, logits: None]}, "<lambda>: a wrong result; found None"),
])
def test_a_function_that_returns_something_else_is_named(option, message):
    with pytest.raises(GenerationError) as caught:
        tokens_of(SumModel(), **option)
    assert str(caught.value).startswith(message)


def test_a_cache_of_plain_layers_is_counted_and_settled():
    model = SumModel()
    cache = list(FakeState(model.make_cache()))
    model_call = SumModel.__call__

    class Plain(SumModel):
        def __call__(self, tokens, cache):
            return model_call(self, tokens, FakeState(cache))

    run = TokenIterator(PROMPT, Plain(), max_tokens=3, cache=cache)
    assert [token for token, _ in run] == sum_model_tokens(PROMPT, 3)
    assert TokenIterator([1], Plain(), cache=cache).cached_tokens == len(PROMPT) + 2


def test_errors_are_of_one_family():
    assert issubclass(GenerationError, MLXLMError)
