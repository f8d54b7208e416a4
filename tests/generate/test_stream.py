"""Streamed text: whole characters, ends at EOS and stop strings, what prompts may be, and the numbers told with it."""
import contextlib
import signal
import threading

import mlx.core as mx
import numpy as np
import pytest
from generation_fakes import BOS, EOS, VOCAB, ByteTokenizer, ScriptModel, SumModel, sum_model_tokens

from mlxlm.errors import GenerationError
from mlxlm.generate import GenerateParameters, generate, make_sampler, stream_generate

PROMPT = [BOS, 104, 105]


class Configuration:
    """The fields of a ModelConfiguration that end an answer."""

    def __init__(self, extra=(), ids=(), stops=()):
        self.extra_eos_tokens, self.eos_token_ids = frozenset(extra), frozenset(ids)
        self.effective_stop_strings = frozenset(stops or extra)


def pieces_of(reply, prompt=PROMPT, length=None, **options):
    model = ScriptModel(reply, length or len(prompt))
    return list(stream_generate(model, ByteTokenizer(), prompt, **options))


def test_text_comes_in_whole_characters_and_the_pieces_make_the_text():
    reply = "naïve café, 東京 🎉!"
    pieces = pieces_of(reply)
    assert "".join(p.text for p in pieces) == reply
    assert all("\ufffd" not in p.text for p in pieces)
    assert [p.token for p in pieces] == [*reply.encode(), EOS]
    assert [p.finish_reason for p in pieces] == [None] * len(reply.encode()) + ["stop"]


def test_a_character_that_was_cut_off_is_told_at_the_end():
    pieces = pieces_of("aé", max_tokens=2)
    assert [p.text for p in pieces] == ["a", "\ufffd"]
    assert pieces[-1].finish_reason == "length"


def test_eos_has_no_text_and_ends_the_answer():
    assert generate(ScriptModel([72, 105, EOS, 33], 3), ByteTokenizer(), PROMPT) == "Hi"
    [only] = pieces_of([EOS])
    assert (only.text, only.token, only.finish_reason) == ("", EOS, "stop")


def test_max_tokens_end_it_with_length_and_the_last_token_has_its_text():
    pieces = pieces_of("abcdef", max_tokens=3)
    assert [(p.text, p.finish_reason) for p in pieces] == [("a", None), ("b", None), ("c", "length")]
    for no_limit in (-1, None):
        assert "".join(p.text for p in pieces_of("x" * 300, max_tokens=no_limit)) == "x" * 300
    [nothing] = pieces_of("abc", max_tokens=0)
    assert (nothing.token, nothing.text, nothing.finish_reason) == (None, "", "length")
    assert nothing.logprobs is None and nothing.logprob is None


def test_eos_as_the_last_token_allowed_is_a_stop():
    assert pieces_of("ab", max_tokens=3)[-1].finish_reason == "stop"


@pytest.mark.parametrize("stop", ["STOP", ["zzz", "STOP"], ("OP", "STOP")])
def test_a_stop_string_across_tokens_is_cut_out(stop):
    pieces = pieces_of("one STUB two STOP three", stop=stop)
    assert "".join(p.text for p in pieces) == "one STUB two "
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].generation_tokens == len("one STUB two STOP")


def test_text_held_for_a_stop_string_is_told_in_the_end():
    assert [p.text for p in pieces_of("ab S", stop="STOP")] == ["a", "b", " ", "", "S"]
    assert [p.text for p in pieces_of("ab STRONG", stop="STOP", max_tokens=5)][-1] == "ST"


def test_a_configuration_ends_it_too():
    assert "".join(p.text for p in pieces_of("ab~cd", configuration=Configuration(extra=["~"]))) == "ab"
    assert "".join(p.text for p in pieces_of("ab~cd", configuration=Configuration(ids=[99]))) == "ab~"
    assert "".join(p.text for p in pieces_of("ab~cd", configuration=Configuration(stops=["~c"]))) == "ab"
    text = "ab</end>cd"
    assert "".join(p.text for p in pieces_of(text, configuration=Configuration(extra=["</end>"]))) == "ab"


def test_the_configuration_that_a_tokenizer_was_loaded_with_counts():
    tokenizer = ByteTokenizer()
    tokenizer.configuration = Configuration(stops=["~"])
    assert generate(ScriptModel("ab~cd!ef", 3), tokenizer, PROMPT) == "ab"
    assert generate(ScriptModel("ab~cd!ef", 3), tokenizer, PROMPT, configuration=Configuration(stops=["!"])) == "ab~cd"


def test_the_unknown_token_ends_an_answer():
    tokenizer = ByteTokenizer()
    tokenizer.unk_token_id = ord("?")
    assert generate(ScriptModel("ab?cd", 3), tokenizer, PROMPT) == "ab"


def test_a_string_is_encoded_as_it_is_with_one_bos():
    tokenizer = ByteTokenizer()
    for text in ("hi", "<s>hi"):
        assert stream_generate(SumModel(), tokenizer, text).prompt.tolist() == PROMPT


def test_messages_go_through_the_chat_template():
    messages = [{"role": "user", "content": "hi"}]
    prompt = stream_generate(SumModel(), ByteTokenizer(), messages).prompt
    assert bytes(prompt.tolist()).decode() == "user:hi\nassistant:"
    prompt = stream_generate(SumModel(), ByteTokenizer(), messages, tools=[{"name": "T"}],
                             template_kwargs={"thinking": False, "add_generation_prompt": False}).prompt
    assert bytes(prompt.tolist()).decode() == "thinkingTuser:hi\n"


@pytest.mark.parametrize("prompt", [PROMPT, np.array(PROMPT), mx.array(PROMPT), tuple(PROMPT)])
def test_ids_stay_what_they_are(prompt):
    assert stream_generate(SumModel(), ByteTokenizer(), prompt).prompt.tolist() == PROMPT


def test_a_processor_with_a_tokenizer_will_do():
    class Processor:
        tokenizer = ByteTokenizer()

    assert stream_generate(SumModel(), Processor(), "hi").prompt.tolist() == PROMPT


@pytest.mark.parametrize(("prompt", "options", "message"), [
    ("", {}, "prompt: empty; expected some text. To generate from nothing, pass the id of the BOS token"),
    ([], {}, "prompt: empty"),
    (None, {}, "prompt: not a prompt; found None"),
    (b"hi", {}, "prompt: not a prompt; found b'hi' (bytes); expected a string, a list of messages, or token ids"),
    ({"role": "user"}, {}, "prompt: not a prompt"),
    (3.5, {}, "prompt: not token ids; found 3.5"),
    (["hello"], {}, "prompt: not token ids"),
    ([VOCAB], {}, "prompt: not in the vocabulary"),
    (PROMPT, {"tools": [{"name": "T"}]}, "prompt: tools and template_kwargs are for the chat template; found list"),
    (PROMPT, {"max_token": 5}, "unknown argument 'max_token'"),
    (PROMPT, {"temp": 1, "temperature": 1}, "temperature: given twice"),
    (PROMPT, {"temp": "warm"}, "temp: not a number; found 'warm'"),
    (PROMPT, {"sampler": make_sampler(), "top_k": 3, "seed": 1},
     "sampler: a sampler was given, so top_k, seed would have no effect. Give one or the other."),
    (PROMPT, {"stop": [""]}, "stop: not a stop string; found ''"),
    (PROMPT, {"stop": [5]}, "stop: not a stop string; found 5"),
    (PROMPT, {"stop": 5}, "stop: not a list; found 5; expected a list of strings"),
    (PROMPT, {"cancel": 1}, "cancel: not a function; found 1"),
    (PROMPT, {"sampler": "greedy"}, "sampler: not a function; found 'greedy'"),
    (PROMPT, {"logits_processors": len}, "logits_processors: not a list; found"),
    (PROMPT, {"logits_processors": [5]}, "logits_processors: not a function; found 5"),
    (PROMPT, {"prompt_progress_callback": 5}, "prompt_progress_callback: not a function; found 5"),
    (PROMPT, {"xtc_special_tokens": 5}, "xtc_special_tokens: not a list; found 5; expected a list of token ids"),
    (PROMPT, {"cache": 5}, "cache: not a cache; found 5; expected what model.make_cache() returns"),
    ([{"role": "user"}], {"template_kwargs": 5}, "template_kwargs: not a mapping; found 5"),
    (PROMPT, {"top_logprobs": -1}, "top_logprobs: out of range"),
    (PROMPT, {"max_tokens": "many"}, "max_tokens: not a whole number; found 'many'"),
])
def test_what_cannot_be_done_is_explained_at_once(prompt, options, message):
    with pytest.raises(GenerationError) as caught:
        stream_generate(SumModel(), ByteTokenizer(), prompt, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("name", "close"), [
    ("max_new_tokens", "max_tokens"), ("topp", "top_p"), ("temprature", "temperature"),
    ("repeat_penalty", "repetition_penalty"),
])
def test_an_unknown_argument_names_the_closest(name, close):
    with pytest.raises(GenerationError) as caught:
        generate(SumModel(), ByteTokenizer(), PROMPT, **{name: 1})
    assert str(caught.value).endswith(f"Did you mean '{close}'?")


def test_other_wrong_things_are_explained():
    with pytest.raises(GenerationError, match="model: not a model; found 'some/model'; expected the first of"):
        generate("some/model", ByteTokenizer(), "hi")
    with pytest.raises(GenerationError, match="processor: not a tokenizer; found dict"):
        generate(SumModel(), {}, "hi")

    class Plain(ByteTokenizer):
        has_chat_template = False

    with pytest.raises(GenerationError, match="the model has no chat template"):
        generate(SumModel(), Plain(), [{"role": "user", "content": "hi"}])


def test_sampling_and_penalties_reach_the_loop():
    model, tokenizer = SumModel(), ByteTokenizer()

    def tokens(**options):
        stream = stream_generate(model, tokenizer, PROMPT, max_tokens=20, **options)
        return [piece.token for piece in stream]

    assert tokens() == sum_model_tokens(PROMPT, 20)
    assert tokens(temp=3.0, seed=4) == tokens(temperature=3.0, seed=4) != tokens(temperature=3.0, seed=5)
    assert tokens(temperature=3.0, top_k=1, seed=4) == tokens()
    banned = sum_model_tokens(PROMPT, 1)[0]
    assert banned not in tokens(logit_bias={banned: float("-inf")})
    only = tokens(logits_processors=[lambda _, logits: mx.where(mx.arange(VOCAB) == 65, logits, -mx.inf)])
    assert only == [65] * 20
    again = pieces_of("aaaa", presence_penalty=1e6, repetition_context_size=3)
    assert len({piece.token for piece in again[:20]}) == len(again[:20])


def test_logprobs_are_those_of_the_token_and_of_its_rivals():
    pieces = pieces_of("ab", top_logprobs=3)
    for piece in pieces:
        full = np.array(piece.logprobs)
        best = sorted(enumerate(full.tolist()), key=lambda item: (-item[1], item[0]))[:3]
        assert piece.top_logprobs == tuple(best)
        assert piece.logprob == piece.top_logprobs[0][1] and piece.top_logprobs[0][0] == piece.token
    assert pieces_of("a")[0].top_logprobs == ()


def test_stats_count_prompt_cache_and_generation():
    model, tokenizer = SumModel(), ByteTokenizer()
    stream = stream_generate(model, tokenizer, PROMPT, max_tokens=5)
    assert stream.stats.generation_tokens == 0 and stream.stats.time_to_first_token == 0
    counted = [(p.prompt_tokens, p.stats.cached_tokens, p.generation_tokens) for p in stream]
    assert counted == [(3, 0, n) for n in range(1, 6)]
    again = stream_generate(model, tokenizer, [1, 2], max_tokens=2, prompt_cache=stream.cache)
    last = list(again)[-1]
    assert (last.prompt_tokens, last.stats.cached_tokens, last.generation_tokens) == (2, 7, 2)
    stats = last.stats
    assert 0 < stats.prompt_time <= stats.time_to_first_token and stats.generation_time > 0
    assert last.prompt_tps == 2 / stats.prompt_time and last.generation_tps == 1 / stats.generation_time
    assert last.peak_memory == mx.get_peak_memory() / 1e9 > 0


def test_cancel_ends_it_with_a_last_piece():
    stop = threading.Event()
    stream = stream_generate(SumModel(), ByteTokenizer(), PROMPT, cancel=stop, max_tokens=-1)
    seen = []
    for piece in stream:
        seen.append(piece)
        if len(seen) == 4:
            stop.set()
    assert [p.finish_reason for p in seen] == [None] * 4 + ["cancelled"]
    assert seen[-1].token is None and stream.tokens == sum_model_tokens(PROMPT, 4)
    assert pieces_of("abc", cancel=lambda: True)[-1].finish_reason == "cancelled"


def test_cancel_tells_the_text_that_was_held_back():
    seen = []
    for piece in stream_generate(ScriptModel("ab ST", 3), ByteTokenizer(), PROMPT, stop="STOP",
                                 cancel=lambda: len(seen) >= 5):
        seen.append(piece.text)
    assert seen == ["a", "b", " ", "", "", "ST"]


def test_ctrl_c_ends_it_and_the_conversation_goes_on():
    model, tokenizer, calls = SumModel(), ByteTokenizer(), []

    def press():
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)

    model.before_last_layer = press
    stream = stream_generate(model, tokenizer, PROMPT, max_tokens=100)
    with pytest.raises(KeyboardInterrupt):
        for _ in stream:
            pass
    known = PROMPT + stream.tokens
    assert stream.tokens == sum_model_tokens(PROMPT, len(stream.tokens))
    held = known[:stream.cache.offset]
    assert stream.cache[0].total.item() == stream.cache[1].total.item() == sum(held)


def test_leaving_the_loop_or_closing_ends_it():
    model, tokenizer = SumModel(), ByteTokenizer()
    stream = stream_generate(model, tokenizer, PROMPT, max_tokens=100)
    for _ in stream:
        break
    stream.close()
    assert list(stream) == []
    assert stream.cache.offset == len(PROMPT) + 1
    assert len(model.calls) == 3


def test_a_piece_can_be_read_in_another_thread():
    box = []
    thread = threading.Thread(target=lambda: box.extend(pieces_of("abc", logit_bias={1: 0.5}, temp=0.5, seed=1)))
    thread.start()
    thread.join()
    assert all(piece.logprobs[piece.token].item() == piece.logprob for piece in box)


def test_streams_interleave_in_one_thread():
    prompts = [[1, 2, 3], [40, 50], [7]]
    streams = [stream_generate(SumModel(), ByteTokenizer(), p, max_tokens=8, temperature=0) for p in prompts]
    rounds = [[next(stream).token for stream in streams] for _ in range(8)]
    assert [list(column) for column in zip(*rounds, strict=True)] == [sum_model_tokens(p, 8) for p in prompts]


def test_verbose_prints_text_and_rates(capsys):
    text = generate(ScriptModel("Hey!", 3), ByteTokenizer(), PROMPT, verbose=True)
    lines = capsys.readouterr().out.split("\n")
    assert text == "Hey!"
    assert lines[:3] == ["==========", "Hey!", "=========="]
    assert lines[3].startswith("Prompt: 3 tokens, ") and lines[3].endswith(" tokens-per-sec")
    assert lines[4].startswith("Generation: 5 tokens, ") and lines[5].startswith("Peak memory: ")
    assert generate(ScriptModel([EOS], 3), ByteTokenizer(), PROMPT, verbose=True) == ""
    assert "No text generated for this prompt" in capsys.readouterr().out


def test_without_verbose_nothing_is_printed(capsys):
    with contextlib.suppress(StopIteration):
        generate(ScriptModel("Hey!", 3), ByteTokenizer(), PROMPT)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_parameters_have_the_defaults_that_mlx_lm_has():
    own = GenerateParameters()
    assert (own.max_tokens, own.temperature, own.top_p, own.min_p, own.top_k) == (256, 0.0, 0.0, 0.0, 0)
    assert (own.repetition_context_size, own.xtc_threshold, own.min_tokens_to_keep) == (20, 0.1, 1)
