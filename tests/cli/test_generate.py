"""`mlxlm generate`: every way to give it a model and a prompt, and what goes to which stream."""

from __future__ import annotations

import json

import pytest

import mlxlm as package


@pytest.fixture(scope="module")
def expected(model) -> str:
    """What the library answers to the prompt that these tests give."""
    loaded, processor = package.load(model)
    return package.generate(loaded, processor, [{"role": "user", "content": "Hello there"}], max_tokens=8)


def test_every_way_to_say_it_gives_the_same_answer(mlxlm, model, expected, tmp_path):
    prompt, messages = tmp_path / "prompt.txt", tmp_path / "messages.json"
    prompt.write_text("Hello there")
    messages.write_text(json.dumps([{"role": "user", "content": "Hello there"}]))
    ways = [
        ([model, "Hello there"], None),
        (["--model", model, "--prompt", "Hello there"], None),
        (["--model", model, "Hello there"], None),
        ([model, "-p", "Hello there"], None),
        ([model, "--prompt-file", prompt], None),
        ([model, "--messages", messages], None),
        ([model], "Hello there"),
        ([model, "-"], "Hello there"),
        ([model, "--prompt", "-"], "Hello there"),
        ([model, "--messages", "-"], json.dumps({"messages": [{"role": "user", "content": "Hello there"}]})),
    ]
    for arguments, stdin in ways:
        done = mlxlm("generate", *arguments, "--max-tokens", 8, stdin=stdin)
        assert (done.status, done.out) == (0, expected + "\n"), arguments


def test_the_figures_go_to_stderr_and_can_be_left_out(mlxlm, model, expected):
    shown = mlxlm("generate", model, "Hello there", "-m", 8)
    assert shown.out == expected + "\n"
    assert shown.err.startswith("prompt 30 tokens, ") and "answer 8 tokens" in shown.err
    assert shown.err.rstrip().endswith("cut off at --max-tokens")
    for quiet in (["-q"], ["--verbose", "false"], ["--verbose", "F"]):
        assert mlxlm("generate", model, "Hello there", "-m", 8, *quiet).err == ""


def test_json_holds_the_text_the_ids_and_the_reason(mlxlm, model, expected):
    done = mlxlm("generate", model, "Hello there", "-m", 8, "--json", "--logprobs", 3)
    answer = json.loads(done.out)
    _, processor = package.load(model)
    assert answer["text"] == expected and answer["finish_reason"] == "length" and done.err == ""
    assert processor.decode(answer["token_ids"]) == expected
    assert answer["stats"]["prompt_tokens"] == len(answer["prompt_token_ids"])
    for token, place in zip(answer["token_ids"], answer["logprobs"], strict=True):
        assert place["id"] == token == place["top"][0]["id"]  # greedy
        assert place["logprob"] == pytest.approx(place["top"][0]["logprob"], abs=1e-5)
        assert [t["logprob"] for t in place["top"]] == sorted((t["logprob"] for t in place["top"]), reverse=True)


def ids(mlxlm, *arguments) -> list[int]:
    done = mlxlm("generate", *arguments, "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)["token_ids"]


def test_sampling_options_reach_the_sampler(mlxlm, model):
    say = (model, "Hello there", "-m", 12)
    greedy = ids(mlxlm, *say)
    hot = ids(mlxlm, *say, "--temp", 5, "--seed", 1)
    assert hot == ids(mlxlm, *say, "--temp", 5, "--seed", 1) != greedy
    assert hot != ids(mlxlm, *say, "--temp", 5, "--seed", 2)
    assert greedy == ids(mlxlm, *say, "--temp", 5, "--seed", 1, "--top-k", 1)
    assert greedy == ids(mlxlm, *say, "--temp", 5, "--seed", 1, "--top-p", 1e-6)
    assert greedy == ids(mlxlm, *say, "--temp", 5, "--seed", 1, "--min-p", 1.0)


@pytest.mark.parametrize("bias", ["{}=-inf", '{{"{}": -1000}}', "{}=-100"])
def test_a_logit_bias_forbids_a_token(mlxlm, model, bias):
    say = (model, "Hello there", "-m", 6)
    first = ids(mlxlm, *say)[0]
    assert first not in ids(mlxlm, *say, "--logit-bias", bias.format(first))


def test_penalties_change_what_repeats(mlxlm, model):
    say = (model, "Hello there", "-m", 24)
    plain = ids(mlxlm, *say)
    for option in ("--repetition-penalty", "--presence-penalty", "--frequency-penalty"):
        changed = ids(mlxlm, *say, option, 50, f"{option.rsplit('-', 1)[0]}-context-size", 100)
        assert len(set(changed)) == len(changed) > len(set(plain)) or changed != plain, option
        assert len(set(changed)) > len(set(plain)) or len(set(plain)) == len(plain), option


def test_a_stop_string_ends_the_answer(mlxlm, model, expected):
    stop = expected[3:5]
    answer = json.loads(mlxlm("generate", model, "Hello there", "-m", 8, "--stop", stop, "--json").out)
    assert answer["text"] == expected[:expected.index(stop)] and answer["finish_reason"] == "stop"


def test_an_extra_eos_token_ends_the_answer(mlxlm, model):
    first = ids(mlxlm, model, "Hello there", "-m", 1)[0]
    _, processor = package.load(model)
    token = processor.convert_ids_to_tokens(first)
    answer = json.loads(mlxlm("generate", model, "Hello there", "--extra-eos-token", token, "--json").out)
    assert answer["finish_reason"] == "stop" and answer["token_ids"] == [first] and answer["text"] == ""


def prompt_of(mlxlm, model, *arguments, stdin=None) -> str:
    """The prompt as the model saw it."""
    done = mlxlm("generate", model, *arguments, "-m", 1, "--json", stdin=stdin)
    assert done.status == 0, done.err
    _, processor = package.load(model)
    return processor.decode(json.loads(done.out)["prompt_token_ids"])


def test_the_chat_template_its_system_message_and_prefill(mlxlm, model):
    user = "<|im_start|>user\nHi<|im_end|>\n"
    assert prompt_of(mlxlm, model, "Hi") == user + "<|im_start|>assistant\n"
    assert prompt_of(mlxlm, model, "Hi", "--system-prompt", "Be brief.") == \
        "<|im_start|>system\nBe brief.<|im_end|>\n" + user + "<|im_start|>assistant\n"
    assert prompt_of(mlxlm, model, "Hi", "--prefill-response", "Well,") == user + "<|im_start|>assistant\nWell,"
    assert prompt_of(mlxlm, model, "Hi", "--ignore-chat-template") == "Hi"


def test_template_variables_reach_the_template(mlxlm, tmp_path):
    import tiny

    folder = tiny.checkpoint(tmp_path / "m", chat_template="{{ messages[0].content }}{% if loud %}!{% endif %}")
    assert prompt_of(mlxlm, folder, "Hi") == "Hi"
    assert prompt_of(mlxlm, folder, "Hi", "--chat-template-config", '{"loud": true}') == "Hi!"


def test_without_a_template_the_prompt_is_taken_as_it_is(mlxlm, tmp_path):
    import tiny

    folder = tiny.checkpoint(tmp_path / "m", chat_template=None)
    assert prompt_of(mlxlm, folder, "Hi") == "Hi"
    refused = mlxlm("generate", folder, "Hi", "--system-prompt", "Be brief.")
    assert refused.status != 0 and "chat template" in refused.err


WRONG = [
    ([], 2, "no model was given"),
    (["MODEL"], 2, "no prompt was given"),
    (["MODEL", "a", "b"], 2, "unexpected argument; found 'b'"),
    (["--model", "MODEL", "-p", "a", "b"], 2, "unexpected argument; found 'b'"),
    (["MODEL", "a", "--prompt-file", "x"], 2, "a prompt and --prompt-file were given"),
    (["MODEL", ""], 2, "empty"),
    (["MODEL", "   \n"], 2, "empty"),
    (["MODEL", "Hi", "--max-token", "3"], 2, "Did you mean"),
    (["MODEL", "Hi", "--temp", "hot"], 2, "'hot' is not a valid float"),
    (["MODEL", "Hi", "--temp", "-1"], 1, "temp: out of range"),
    (["MODEL", "Hi", "--top-p", "nan"], 1, "top_p"),
    (["MODEL", "Hi", "-m", "-7"], 1, "max_tokens"),
    (["MODEL", "Hi", "--logit-bias", "seven"], 2, "--logit-bias"),
    (["MODEL", "Hi", "--logit-bias", "99999=1"], 1, "logit_bias"),
    (["MODEL", "Hi", "--logprobs", "2"], 2, "--json"),
    (["MODEL", "Hi", "--chat-template-config", "[1]"], 2, "--chat-template-config: not an object"),
    (["MODEL", "Hi", "--chat-template-config", "{"], 2, "--chat-template-config: not JSON"),
    (["MODEL", "Hi", "--ignore-chat-template", "--system-prompt", "x"], 2, "--system-prompt needs the chat template"),
    (["MODEL", "--messages", "nowhere.json"], 1, "nowhere.json: it can't be read"),
    (["./nowhere", "Hi"], 1, "nowhere"),
]


@pytest.mark.parametrize("arguments, status, message", WRONG, ids=[" ".join(a) or "nothing" for a, _, _ in WRONG])
def test_wrong_use_is_told_in_one_message(mlxlm, model, arguments, status, message):
    done = mlxlm("generate", *(model if a == "MODEL" else a for a in arguments))
    assert (done.status, done.out) == (status, ""), done.err
    assert done.err.startswith("error: ") and message in done.err


MESSAGES = [
    ("not json", "not JSON"),
    ("{}", "not a list of messages"),
    ("[]", "not a list of messages"),
    ("[1]", "message 1: not an object"),
    ('[{"role": "user"}]', "message 1: content must be text"),
    ('[{"role": "user", "content": "a"}, {"role": "usr", "content": "b"}]',
     "message 2: the role isn't known; found \"usr\""),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize("text, message", MESSAGES, ids=range(len(MESSAGES)))
def test_messages_that_are_none_are_explained(mlxlm, model, text, message):
    done = mlxlm("generate", model, "--messages", "-", stdin=text)
    assert done.status == 1 and message in done.err and done.out == ""


def test_input_that_is_not_text_is_explained(mlxlm, model):
    done = mlxlm("generate", model, stdin=b"\xff\xfe\x00")
    assert done.status == 1 and "UTF-8" in done.err
