"""The engine: requests come, go, fail, time out and are cancelled, and none of it reaches the others."""

import asyncio
import threading
import time

import pytest
import tiny
from generation_fakes import ByteTokenizer, SumModel

from mlxlm.errors import BusyError, GenerationError
from mlxlm.generate import generate, stream_generate
from mlxlm.generate.batch import BatchLoop, Generation
from mlxlm.generate.engine import BatchEngine, batch_generate
from mlxlm.generate.parameters import GenerateParameters
from mlxlm.generate.stream import TextStream
from mlxlm.load import load

PROMPTS = ["a", "some longer prompt", [{"role": "user", "content": "hello"}], [5, 6, 7]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def engine(loaded):
    with BatchEngine(*loaded, max_batch=4) as made:
        yield made


class Gate:
    """A logits processor that holds its generation, and so the engine, until it is opened."""

    def __init__(self):
        self.opened, self.reached = threading.Event(), threading.Event()

    def __call__(self, tokens, logits):
        self.reached.set()
        assert self.opened.wait(20)
        return logits


def alone(loaded, prompt, **parameters):
    return generate(*loaded, prompt, **parameters)


def test_batch_generate_equals_generate(loaded):
    each = [{}, {"temperature": 1.0, "seed": 5}, {"stop": "e"}, {"response_format": ["yes", "no"]}]
    found = batch_generate(*loaded, PROMPTS, max_tokens=12, each=each)
    assert list(found) == [alone(loaded, p, max_tokens=12, **e) for p, e in zip(PROMPTS, each, strict=True)]
    assert found.finish_reasons[3] == "stop" and len(found) == 4 and found[0] == found.texts[0]
    assert [piece.stats.generation_tokens for piece in found.last][:2] == [12, 12]


def test_limits_may_differ_and_more_prompts_than_places(loaded):
    prompts = ["p" * n for n in range(1, 8)]
    found = batch_generate(*loaded, prompts, max_tokens=list(range(7)), max_batch=2)
    assert list(found) == [alone(loaded, p, max_tokens=n) for n, p in enumerate(prompts)]
    assert found.texts[0] == "" and list(batch_generate(*loaded, [])) == []


@pytest.mark.parametrize("arguments, part", [
    ({"prompts": "text"}, "prompts"), ({"prompts": ["a", ""]}, "empty"),
    ({"prompts": ["a"], "max_tokens": [1, 2]}, "max_tokens"),
    ({"prompts": ["a"], "each": []}, "each"), ({"prompts": ["a"], "max_tokens": "x"}, "max_tokens"),
    ({"prompts": ["a"], "response_format": {"enum": []}}, "Unsatisfiable"),
    ({"prompts": ["a"], "max_batch": 0}, "max_batch"),
    ({"prompts": ["a"], "cache": [1]}, "cache"), ({"prompts": ["a"], "nonsense": 1}, "nonsense"),
], ids=str)
def test_wrong_arguments_are_told_first(loaded, arguments, part):
    with pytest.raises(GenerationError, match=part):
        batch_generate(*loaded, **arguments)


def test_a_batch_goes_on_from_a_cache_and_leaves_it(loaded):
    model, processor = loaded
    cache = model.make_cache()
    generate(model, processor, "a beginning", max_tokens=4, cache=cache)
    offset = cache.offset
    found = batch_generate(model, processor, ["x", "yy"], max_tokens=6, cache=cache)
    assert cache.offset == offset
    assert list(found) == [generate(model, processor, p, max_tokens=6, cache=cache.copy()) for p in ("x", "yy")]


def test_pieces_are_those_of_a_stream(loaded, engine):
    request = engine.submit("abc", max_tokens=9, top_logprobs=2)
    found, expected = list(request), list(stream_generate(*loaded, "abc", max_tokens=9, top_logprobs=2))
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.token, one.finish_reason) == (other.text, other.token, other.finish_reason)
        assert [t for t, _ in one.top_logprobs] == [t for t, _ in other.top_logprobs]
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert request.stats.generation_tokens == 9 and request.stats.prompt_tokens == 3
    assert list(request) == []  # each piece is given once


def test_requests_join_while_others_run(loaded, engine):
    first = engine.submit("first", max_tokens=60)
    pieces = [next(iter(first))]
    second = engine.submit("second", max_tokens=5)
    assert second.result() == alone(loaded, "second", max_tokens=5)
    assert "".join(p.text for p in [*pieces, *first]) == alone(loaded, "first", max_tokens=60)


def test_a_long_prompt_is_read_between_the_others_steps(loaded):
    model, processor = loaded
    lengths = []

    class Watched:
        """The model, and how many tokens each pass had."""

        config, model_type = model.config, model.model_type
        make_cache = model.make_cache

        def __call__(self, tokens, cache):
            lengths.append(tokens.shape)
            return model(tokens, cache=cache)

    loop = BatchLoop(Watched(), prefill_tokens=32)
    loop._alone = False

    def add(prompt, count):
        stream = TextStream(loop.model, processor, prompt, GenerateParameters(max_tokens=count))
        loop.add(Generation(stream, lambda piece: None, pytest.fail))

    add("short", 40)
    loop.step()
    lengths.clear()
    add("x" * 330, 2)
    while loop.busy:
        loop.step()
    reading = [i for i, shape in enumerate(lengths) if shape[1] > 1]
    assert len(reading) == 11 and max(shape[1] for shape in lengths) == 32
    assert all(lengths[i + 1] == (1, 1) for i in reading)  # the short one's next token comes between
    assert (2, 1) in lengths


def test_cancelling_one_leaves_the_others(loaded, engine):
    requests = [engine.submit(f"prompt {i}", max_tokens=300) for i in range(3)]
    pieces = iter(requests[1])
    text = next(pieces).text
    requests[1].cancel()
    rest = list(pieces)
    assert rest[-1].finish_reason == "cancelled" and len(rest) < 299
    assert alone(loaded, "prompt 1", max_tokens=300).startswith(text + "".join(p.text for p in rest))
    for i in (0, 2):
        assert requests[i].result() == alone(loaded, f"prompt {i}", max_tokens=300)


def test_time_runs_out(engine):
    last = list(engine.submit("x", max_tokens=-1, timeout=0.05, beyond_context=True))[-1]
    assert last.finish_reason == "timeout"
    assert [p.finish_reason for p in engine.submit("x", timeout=0)] == ["timeout"]
    assert engine.generate("x", max_tokens=3)


def test_waiting_for_a_result_has_a_limit_of_its_own(engine):
    gate = Gate()
    request = engine.submit("x", max_tokens=2, logits_processors=[gate])
    with pytest.raises(TimeoutError):
        request.result(timeout=0.01)
    gate.opened.set()
    assert request.result(timeout=20) == engine.generate("x", max_tokens=2)


def test_an_error_is_its_own_requests(loaded, engine):
    def broken(tokens, logits):
        if tokens.shape[0] > 4:
            raise ZeroDivisionError("mine")
        return logits

    def crooked(tokens, logits):
        return logits[:, :3]

    good = engine.submit("good", max_tokens=30)
    bad = engine.submit("bad", max_tokens=30, logits_processors=[broken])
    wrong = engine.submit("worse", max_tokens=30, logits_processors=[crooked])
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.result()
    with pytest.raises(GenerationError, match="crooked"):
        wrong.result()
    assert good.result() == alone(loaded, "good", max_tokens=30)
    assert engine.open_requests == 0


def test_a_pass_that_fails_ends_its_rows_and_the_engine_goes_on():
    model = SumModel()
    expected = generate(model, ByteTokenizer(), "ab", max_tokens=5)
    with BatchEngine(model, ByteTokenizer()) as engine:
        def fail():
            raise RuntimeError("no memory")

        model.before_last_layer = fail
        with pytest.raises(RuntimeError, match="no memory"):
            engine.generate("ab", max_tokens=5)
        model.before_last_layer = lambda: None
        assert engine.generate("ab", max_tokens=5) == expected


def test_a_full_queue_says_so(loaded):
    gate = Gate()
    with BatchEngine(*loaded, max_batch=1, max_queue=2) as engine:
        first = engine.submit("x", max_tokens=2, logits_processors=[gate])
        assert gate.reached.wait(20)
        rest = [engine.submit("x", max_tokens=2) for _ in range(2)]
        with pytest.raises(BusyError, match=r"at most 3.*max_queue"):
            engine.submit("x")
        rest[1].cancel()
        gate.opened.set()
        assert first.result() == rest[0].result() and rest[1].result() == ""
        assert engine.generate("x", max_tokens=2)


def test_wrong_requests_take_no_place(loaded):
    with BatchEngine(*loaded, max_batch=1, max_queue=1) as engine:
        for _ in range(5):
            with pytest.raises(GenerationError):
                engine.submit("")
        assert engine.open_requests == 0 and engine.generate("x", max_tokens=1)


def test_closing_answers_those_in_line_or_drops_them(loaded):
    engine = BatchEngine(*loaded, max_batch=1)
    requests = [engine.submit("x", max_tokens=4) for _ in range(3)]
    engine.close()
    assert len({request.result() for request in requests}) == 1
    with pytest.raises(GenerationError, match="closed"):
        engine.submit("x")
    engine = BatchEngine(*loaded, max_batch=1)
    requests = [engine.submit("x", max_tokens=-1, beyond_context=True) for _ in range(3)]
    engine.close(wait=False)
    assert {list(request)[-1].finish_reason for request in requests} == {"cancelled"}


def test_many_threads_ask_at_once(loaded, engine):
    expected = {n: alone(loaded, "t" * n, max_tokens=10) for n in range(1, 9)}
    found = {}

    def ask(n):
        found[n] = engine.generate("t" * n, max_tokens=10)

    threads = [threading.Thread(target=ask, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_it_can_be_awaited(loaded, engine):
    async def ask(prompt):
        return "".join([piece.text async for piece in engine.submit(prompt, max_tokens=8)])

    async def all_of_them():
        ticks = 0
        tasks = [asyncio.create_task(ask(p)) for p in PROMPTS]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            ticks += 1
        assert ticks > 3  # the event loop goes on meanwhile
        return [task.result() for task in tasks]

    assert asyncio.run(all_of_them()) == [alone(loaded, p, max_tokens=8) for p in PROMPTS]


def test_an_awaited_error_is_raised(engine):
    async def ask():
        def broken(tokens, logits):
            raise ZeroDivisionError("mine")

        async for _ in engine.submit("x", logits_processors=[broken]):
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask())


def test_one_model_in_eight_threads(loaded):
    expected = [alone(loaded, "t" * n, max_tokens=12, temperature=0.7, seed=n) for n in range(1, 9)]
    found = [""] * 8
    start = threading.Barrier(8)

    def ask(n):
        start.wait()
        for _ in range(3):
            found[n] = alone(loaded, "t" * (n + 1), max_tokens=12, temperature=0.7, seed=n + 1)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_an_idle_engine_costs_nothing(loaded, engine):
    engine.generate("x", max_tokens=1)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.15
