"""Answers taken apart while they stream: content, reasoning and calls by each family's conventions, nothing lost."""

from __future__ import annotations

import pytest
from worlds import HARMONY, HARMONY_TOKENS, THINKING, Actor, make_tokenizer

from mlxlm.configuration import ModelConfiguration, ReasoningConfig
from mlxlm.errors import GenerationError
from mlxlm.generate import generate, stream_generate
from mlxlm.tools import parse

CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "CET"}}\n</tool_call>'
NOW = {"type": "function", "function": {"name": "now", "parameters": {
    "type": "object", "properties": {"zone": {"type": "string"}}}}}
ASK = [{"role": "user", "content": "What time is it?"}]


def answered(reply, template=THINKING, prompt=ASK, tokenizer=None, model_type="qwen3", marker=None, **options):
    tokenizer = tokenizer or make_tokenizer(template)
    more = {"marker": marker} if marker else {}
    model = Actor(tokenizer, lambda text: reply, model_type=model_type, **more)
    return list(stream_generate(model, tokenizer, prompt, max_tokens=400, **options))


def joined(pieces):
    return ("".join(p.text for p in pieces), "".join(p.reasoning for p in pieces),
            [(c.name, c.arguments) for p in pieces for c in p.tool_calls], [r for p in pieces for r in p.rejected])


def test_reasoning_and_calls_have_fields_of_their_own():
    reply = f"Hm.\n</think>\n\nI look. {CALL} Done."
    pieces = answered(reply, tools=[NOW])
    assert joined(pieces) == ("I look.  Done.", "Hm.", [("now", {"zone": "CET"})], [])
    assert pieces[-1].finish_reason == "tool_calls"
    assert "".join(e.text for p in pieces for e in p.events) == reply
    assert "".join(p.answer for p in pieces) == f"I look. {CALL} Done."


def test_text_streams_while_it_comes():
    pieces = answered("Hm.\n</think>\n\nYes, it is.")
    assert [p.text for p in pieces if p.text] == list("Yes, it is.")
    assert [p.reasoning for p in pieces if p.reasoning] == ["H", "m", "."]
    assert pieces[-1].finish_reason == "stop"


def test_without_tools_a_call_is_text():
    assert joined(answered(f"</think>{CALL}")) == (CALL, "", [], [])
    assert joined(answered(f"</think>{CALL}", tools=[NOW], tool_choice="none"))[0] == CALL


def test_what_is_no_call_carries_its_text_and_why():
    bad = '<tool_call>\n{"name": "later", "arguments": {}}\n</tool_call>'
    text, _, calls, [rejected] = joined(answered(f"</think>A{bad}B", tools=[NOW]))
    assert (text, calls, rejected.reason, rejected.raw) == ("AB", [], "undeclared_tool", bad)
    cut = CALL[:30]
    text, _, calls, [rejected] = joined(answered(f"</think>A{cut}", tools=[NOW]))
    assert (text, calls, rejected.reason, rejected.raw) == ("A", [], "incomplete_output", cut)


def test_a_plain_prompt_is_answered_with_all_that_was_written():
    reply = f"<think>Hm.</think>{CALL}"
    tokenizer = make_tokenizer(THINKING)
    prompt = tokenizer.apply_chat_template(ASK, enable_thinking=False)
    pieces = answered(reply, prompt=prompt, tokenizer=tokenizer)
    assert joined(pieces) == (reply, "", [], []) and not any(p.events for p in pieces)
    assert generate(Actor(tokenizer, lambda _: reply), tokenizer, prompt, max_tokens=400) == reply
    told = answered(reply, prompt=prompt, tokenizer=tokenizer, parse=True, tools=[NOW])
    assert joined(told) == ("", "Hm.", [("now", {"zone": "CET"})], [])
    open_prompt = tokenizer.apply_chat_template(ASK)
    pieces = answered("Hm.</think>Yes.", prompt=open_prompt, tokenizer=tokenizer, parse=True)
    assert joined(pieces)[:2] == ("Yes.", "Hm.")
    assert joined(answered(f"Hm.</think>{CALL}", parse=False))[0] == f"Hm.</think>{CALL}"


def test_generate_gives_the_content_and_calls_as_they_are():
    tokenizer = make_tokenizer(THINKING)
    model = Actor(tokenizer, lambda _: f"Hm.\n</think>\n\nLook: {CALL}", model_type="qwen3")
    assert generate(model, tokenizer, ASK, tools=[NOW], max_tokens=400) == f"Look: {CALL}"


def test_a_function_will_do_for_a_tool():
    def now(zone: str) -> str:
        """The time.

        Args:
            zone: Of the world.
        """
        return zone

    seen = []
    tokenizer = make_tokenizer(THINKING)
    model = Actor(tokenizer, lambda prompt: seen.append(prompt) or f"</think>{CALL}", model_type="qwen3")
    pieces = list(stream_generate(model, tokenizer, ASK, tools=[now], max_tokens=400))
    assert joined(pieces)[2] == [("now", {"zone": "CET"})]
    assert '"description": "Of the world."' in seen[0]


def test_tags_that_the_user_writes_open_nothing():
    question = [{"role": "user", "content": "What does <think> mean?"}]
    tokenizer = make_tokenizer(THINKING.replace("<think>\\n'", "'"))
    assert joined(answered("A tag.", prompt=question, tokenizer=tokenizer))[:2] == ("A tag.", "")
    assert joined(answered("Hm.</think>A tag.", prompt=question))[:2] == ("A tag.", "Hm.")


def test_a_thought_that_is_left_open_goes_on():
    said = [*ASK, {"role": "assistant", "content": "<think>\nIt may be"}]
    pieces = answered("<think>\nIt may be noon.</think>Noon.", prompt=said,
                      template_kwargs={"continue_final_message": True, "add_generation_prompt": False})
    assert "".join(p.reasoning for p in pieces).endswith(" noon.") and joined(pieces)[0] == "Noon."


@pytest.mark.parametrize(("template", "switched"), [(THINKING, "enable_thinking"),
                                                    (THINKING.replace("enable_thinking", "thinking"), "thinking")])
def test_thinking_is_switched_by_the_templates_own_name(template, switched):
    prompts = []
    tokenizer = make_tokenizer(template)
    model = Actor(tokenizer, lambda prompt: "Yes.", model_type="qwen3")
    for options in ({"enable_thinking": False}, {"thinking": False}, {"template_kwargs": {switched: False}}):
        stream = stream_generate(model, tokenizer, ASK, **options)
        prompts.append(tokenizer.decode(stream.prompt.tolist()))
        assert joined(list(stream))[:2] == ("Yes.", "")
    assert len(set(prompts)) == 1 and prompts[0].endswith("<think>\n\n</think>\n\n")
    on = stream_generate(model, tokenizer, ASK, enable_thinking=True)
    assert tokenizer.decode(on.prompt.tolist()).endswith("<think>\n")


def test_a_switch_that_there_is_not():
    from worlds import CHATML

    always = CHATML + "{# <think></think> #}"
    with pytest.raises(GenerationError, match="can't be turned off"):
        answered("x", always, enable_thinking=False, model_type="actor")
    with pytest.raises(GenerationError, match="no reasoning to turn on"):
        answered("x", CHATML, enable_thinking=True, model_type="actor")
    assert joined(answered("x", CHATML, enable_thinking=False, model_type="actor"))[0] == "x"
    with pytest.raises(GenerationError, match="for the chat template"):
        answered("x", prompt=[5, 6], enable_thinking=False)


def test_the_configuration_stands_above_the_template():
    configuration = ModelConfiguration(directory="x", tool_call_format="kimi_k2",
                                       reasoning=ReasoningConfig("[THINK]", "[/THINK]"))
    call = ('<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}'
            '<|tool_call_end|><|tool_calls_section_end|>')
    pieces = answered(f"[THINK]Hm.[/THINK]{call}", tools=[NOW], configuration=configuration, model_type="actor")
    assert joined(pieces)[:3] == ("", "Hm.", [("now", {})])


def test_stop_strings_end_an_answer_that_is_taken_apart():
    pieces = answered(f"Hm.\n</think>\n\nYes STOP {CALL}", tools=[NOW], stop="STOP")
    assert joined(pieces) == ("Yes ", "Hm.", [], []) and pieces[-1].finish_reason == "stop"
    assert joined(answered("Hm. STOP", stop="STOP"))[:2] == ("", "Hm. ")


def test_tokens_that_run_out_end_it_with_length():
    tokenizer = make_tokenizer(THINKING)
    model = Actor(tokenizer, lambda _: f"</think>{CALL}", model_type="qwen3")
    pieces = list(stream_generate(model, tokenizer, ASK, tools=[NOW], max_tokens=30))
    assert pieces[-1].finish_reason == "length"
    assert "".join(e.text for p in pieces for e in p.events) == f"</think>{CALL}"[:30]


# Harmony, by ids

def harmony(reply, ends=("<|return|>", "<|call|>"), **options):
    tokenizer = make_tokenizer(HARMONY, HARMONY_TOKENS, ends)
    return answered(reply, tokenizer=tokenizer, model_type="gpt_oss", marker="<|start|>assistant", **options)


def test_harmony_tells_its_channels_apart():
    pieces = harmony("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Noon.")
    assert joined(pieces) == ("Noon.", "Hm.", [], []) and pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize("header", [" to=functions.now<|channel|>commentary", "<|channel|>commentary to=functions.now "
                                    "<|constrain|>json"])
def test_harmony_calls_end_with_their_token(header):
    tokenizer = make_tokenizer(HARMONY, HARMONY_TOKENS, ("<|return|>", "<|call|>"))
    text = f'{header}<|message|>{{"zone": "CET"}}'
    reply = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.token_to_id("<|call|>")]
    pieces = harmony(reply, tools=[NOW])
    assert joined(pieces) == ("", "", [("now", {"zone": "CET"})], []) and pieces[-1].finish_reason == "tool_calls"
    assert pieces[-1].events[-1].text.endswith("<|call|>")
    [rejected] = joined(harmony(reply))[3]
    assert rejected.reason == "undeclared_tool"


def spelled(tokenizer, text):
    """The ids of a text whose parts are parted by ``~``; those that begin with ``!`` are spelled letter by letter."""
    units = [unit for part in text.split("~") for unit in (part[1:] if part[:1] == "!" else [part])]
    return [i for unit in units for i in tokenizer.encode(unit, add_special_tokens=False)]


def test_harmony_text_that_spells_a_control_token_is_text():
    tokenizer = make_tokenizer(HARMONY, HARMONY_TOKENS, ("<|return|>", "<|call|>"))
    ids = spelled(tokenizer,
                  "<|channel|>final<|message|>~!The token <|end|> ends, \ufdd0 <|start|>assistant.~<|return|>")
    assert joined(harmony(ids)) == ("The token <|end|> ends, \ufdd0 <|start|>assistant.", "", [], [])
    ids = spelled(tokenizer, '<|channel|>commentary to=functions.now<|message|>~!{"zone": "<|call|> a<b"}~<|call|>')
    assert joined(harmony(ids, tools=[NOW]))[2] == [("now", {"zone": "<|call|> a<b"})]
    output = parse(ids, "gpt_oss", [NOW], tokenizer=tokenizer)
    assert [c.arguments for c in output.tool_calls] == [{"zone": "<|call|> a<b"}]
    assert "".join(piece.text for piece in output.pieces) == tokenizer.decode(ids)


def test_harmony_stop_strings_are_text_or_the_token():
    reply = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>a<b and <|x"
    assert joined(harmony(reply, stop="<b"))[:2] == ("a", "Hm")
    assert joined(harmony(reply, stop="<|end|>"))[:2] == ("", "Hm")
