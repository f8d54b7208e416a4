"""The engine's options of the command line: each does what its keyword does, and wrong values are told in a message."""

from __future__ import annotations

import json

import pytest

import mlxlm as package
from mlxlm.generate import save_prompt_cache, stream_generate

QUESTION = "Say it again: red green blue red green blue"


def answer(mlxlm, model, *options, prompt=QUESTION):
    done = mlxlm("generate", model, prompt, "-m", 12, "--json", *options)
    assert done.status == 0, done.err
    return json.loads(done.out)


@pytest.fixture(scope="module")
def loaded(model):
    return package.load(model)


@pytest.mark.parametrize("options", [["--prompt-lookup"], ["--draft-model", "lookup", "--num-draft-tokens", 3]])
def test_the_text_drafts(mlxlm, model, options):
    plain, found = answer(mlxlm, model), answer(mlxlm, model, *options)
    assert found["token_ids"] == plain["token_ids"]
    assert plain["stats"]["draft_tokens"] == 0


def test_a_model_drafts_for_itself_and_the_figures_say_so(mlxlm, model):
    found = answer(mlxlm, model, "--draft-model", model, "--num-draft-tokens", 3)
    assert found["token_ids"] == answer(mlxlm, model)["token_ids"]
    assert found["stats"]["accepted_tokens"] > 0.5 * found["stats"]["draft_tokens"] > 0
    shown = mlxlm("generate", model, QUESTION, "-m", 12, "--draft-model", model)
    assert "guesses right" in shown.err


def test_packed_caches_are_the_librarys(mlxlm, model, loaded):
    options = {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 0}
    stream = stream_generate(*loaded, [{"role": "user", "content": QUESTION}], max_tokens=12, **options)
    for _ in stream:
        pass
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert answer(mlxlm, model, *words)["token_ids"] == stream.tokens


def test_an_answer_is_held_to_a_format(mlxlm, model, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"enum": [1, 22, 333]}))
    assert json.loads(answer(mlxlm, model, "--json-schema", schema)["text"]) in (1, 22, 333)
    choice = json.dumps({"type": "choice", "choices": ["yes", "no"]})
    assert answer(mlxlm, model, "--response-format", choice)["text"] in ("yes", "no")
    assert answer(mlxlm, model, "--response-format", "json")["text"].startswith("{")


@pytest.mark.parametrize("options, message", [
    (["--response-format", "xml"], "--response-format: not JSON"),
    (["--response-format", "json", "--json-schema", "x"], "--response-format and --json-schema were given"),
    (["--json-schema", "none.json"], "none.json: it can't be read"),
    (["--json-schema", "@damaged"], "not JSON"),
    (["--response-format", '{"type": "regex"}'], "without its pattern"),
    (["--response-format", '{"type": "object", "required": ["a"], "properties": {"a": false}}'], "response_format"),
    (["--kv-bits", "7"], "kv_bits"),
    (["--num-draft-tokens", "0"], "num_draft_tokens"),
    (["--draft-model", "no/such"], "no/such"),
    (["--draft-model", "mtp"], "no layer that predicts ahead"),
    (["--experts-per-token", "2"], "experts_per_token"),
    (["--activations", "int7"], "--activations"),
    (["--memory-limit", "much"], "memory_limit"),
    (["--memory-limit", "1K"], "memory"),
    (["--prompt-cache-file", "none.safetensors"], "none.safetensors"),
])
def test_wrong_values_are_told(mlxlm, model, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "@damaged" in options:
        (tmp_path / "damaged").write_text('{"type": ')
        options = [options[0], "damaged"]
    done = mlxlm("generate", model, "Hello", *options)
    assert done.status in (1, 2) and message in done.err and "Traceback" not in done.err, done.err


def test_activations_that_nothing_can_round_are_told_and_left_exact(mlxlm, model):
    """The model of these tests isn't quantized: the answer is what it was, and a warning says why."""
    rounding = mlxlm("generate", model, QUESTION, "-m", 12, "--json", "--activations", "int8")
    assert rounding.status == 0 and "activations='int8' changes nothing here" in rounding.err
    assert json.loads(rounding.out)["token_ids"] == answer(mlxlm, model)["token_ids"]


def test_a_saved_prompt_is_gone_on_from(mlxlm, model, loaded, tmp_path):
    """As mlx-lm's: the file holds the beginning of a user's message, and the question is its end."""
    net, processor = loaded
    file, document = tmp_path / "document.safetensors", "The sea is blue and the sky is blue. "
    whole = processor.apply_chat_template([{"role": "user", "content": document + "Why?"}])
    shared = processor.apply_chat_template([{"role": "user", "content": document}], add_generation_prompt=False,
                                           continue_final_message=True)
    stream = stream_generate(net, processor, shared, max_tokens=0)
    for _ in stream:
        pass
    save_prompt_cache(file, stream.cache)
    left = whole[stream.cache.offset:]
    found = answer(mlxlm, model, "--prompt-cache-file", file, prompt=processor.decode(left).split("Why?")[0] + "Why?")
    assert found["prompt_token_ids"] == left and found["stats"]["cached_tokens"] == stream.cache.offset
    assert found["token_ids"] == answer(mlxlm, model, prompt=document + "Why?")["token_ids"]


def test_what_can_not_follow_a_saved_prompt_is_told(mlxlm, model, loaded, tmp_path):
    net, _ = loaded
    save_prompt_cache(tmp_path / "empty.safetensors", net.make_cache())
    asked = ["generate", model, "Hi", "--prompt-cache-file", tmp_path / "empty.safetensors", "-m", 2]
    assert mlxlm(*asked).status == 0
    for more, message in ((["--system-prompt", "Be brief"], "followed by one question"),
                          (["--image", "a.png"], "images and videos")):
        done = mlxlm(*asked, *more)
        assert done.status == 2 and message in done.err


def test_a_conversation_takes_them_too(mlxlm, model):
    choice = json.dumps({"type": "choice", "choices": ["yes", "no"]})
    done = mlxlm("chat", model, "--draft-model", "lookup", "--kv-bits", 8, "--kv-group-size", 32,
                 "--memory-limit", "off", "--response-format", choice, "-m", 8, stdin="Is it?\nAgain: is it?\n")
    assert done.status == 0, done.err
    assert set(done.out.split()) <= {"yes", "no"} and len(done.out.split()) == 2
