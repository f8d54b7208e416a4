"""A budget for reasoning: its end is written in time, in the family's own words, and never twice."""

from __future__ import annotations

import mlx.core as mx
import pytest
from worlds import CHATML, HARMONY, HARMONY_TOKENS, THINKING, Actor, make_tokenizer

from mlxlm.errors import GenerationError
from mlxlm.generate import stream_generate
from mlxlm.generate.reasoning import ReasoningBudget
from mlxlm.tools import ToolStream, reasoning_protocol

ASK = [{"role": "user", "content": "Why?"}]
LONG = "Well, let me see, it may be this and it may be that."


class Thinker(Actor):
    """Says its thoughts, and its answer once they are closed, whoever closed them."""

    def __init__(self, tokenizer, thoughts, answer, closed=("</think>",), **options):
        super().__init__(tokenizer, lambda _: "", **options)
        self.opened = not thoughts.startswith("<think>")
        self.thoughts, self.answer, self.closed = self._ids(thoughts), self._ids(answer), closed

    def _next(self, ids):
        text = self.tokenizer.decode(ids)
        if self.marker not in text:
            return 0
        at = text.index(self.marker) + len(self.marker)
        at += len("<think>\n") if text.startswith("<think>\n", at) and self.opened else 0
        said, reply = ids[len(self._ids(text[:at])):], self.thoughts
        if said != reply[:len(said)] or len(said) == len(reply):
            ends = [text.rindex(end) + len(end) for end in self.closed if end in text[at:]]
            said, reply = self._ids(text[max(ends):].lstrip("\n")) if ends else [], self.answer
        return reply[len(said)] if len(said) < len(reply) else min(self.tokenizer.eos_token_ids)


def thought(thoughts, budget, template=THINKING, model_type="qwen3_next", **options):
    tokenizer = make_tokenizer(template)
    model = Thinker(tokenizer, thoughts, "Because.", model_type=model_type)
    pieces = list(stream_generate(model, tokenizer, ASK, max_tokens=300, reasoning_budget=budget, **options))
    return ("".join(p.reasoning for p in pieces), "".join(p.text for p in pieces),
            tokenizer.decode([p.token for p in pieces]).replace("<|im_end|>", ""))


@pytest.mark.parametrize("budget", [0, 1, 7, 20])
def test_the_end_is_written_when_the_budget_is_used_up(budget):
    reasoning, answer, text = thought(LONG, budget)
    assert (reasoning, answer) == (LONG[:budget], "Because.")
    assert text == f"{LONG[:budget]}\n</think>\n\nBecause."


def test_qwen_3_ends_in_the_words_that_it_knows():
    reasoning, answer, text = thought(LONG, 10, model_type="qwen3")
    assert reasoning.startswith(LONG[:10]) and "limited time by the user" in reasoning and answer == "Because."
    assert text.count("</think>") == 1


def test_an_end_of_its_own_stays_the_only_one():
    for budget in (11, 12, 14, 17, 30):  # before, within and after the model's own end
        _, answer, text = thought("Short.\n</think>\n\n", budget)
        assert text == "Short.\n</think>\n\nBecause." and answer == "Because."
    assert thought("Short.\n</think>\n\n", 6)[2].count("</think>") == 1


def test_a_character_is_finished_first():
    reasoning, _, text = thought("ab🎉cd", 4)
    assert reasoning == "ab🎉" and "\ufffd" not in text


def test_sampling_and_other_processors_make_no_difference():
    for options in ({"temperature": 1.5, "seed": 3, "top_k": 1}, {"repetition_penalty": 1.01}):
        assert thought(LONG, 7, **options)[:2] == (LONG[:7], "Because.")


def test_a_model_that_begins_its_thoughts_itself():
    template = CHATML + "{# <think></think> #}"
    reasoning, answer, _ = thought("<think>\n" + LONG, 9, template, "qwen3_next")
    assert (reasoning, answer) == (LONG[:8], "Because.")  # the newline behind the tag is a token of the budget too


def test_an_answer_without_thoughts_is_left_alone():
    tokenizer = make_tokenizer(CHATML + "{# <think></think> #}")
    model = Actor(tokenizer, lambda _: LONG)
    for budget in (0, 5):
        text = "".join(p.text for p in stream_generate(model, tokenizer, ASK, reasoning_budget=budget))
        assert text == LONG


def test_harmony_goes_on_with_its_final_channel():
    tokenizer = make_tokenizer(HARMONY, HARMONY_TOKENS, ("<|return|>",))
    model = Thinker(tokenizer, f"<|channel|>analysis<|message|>{LONG}", "Because.",
                    closed=("<|channel|>final<|message|>",), model_type="gpt_oss", marker="<|start|>assistant")
    pieces = list(stream_generate(model, tokenizer, ASK, max_tokens=300, reasoning_budget=12))
    assert "".join(p.reasoning for p in pieces) == LONG[:12]
    assert "".join(p.text for p in pieces) == "Because." and pieces[-1].finish_reason == "stop"


def test_what_cannot_be_held_to_a_budget():
    tokenizer = make_tokenizer(CHATML)
    model = Actor(tokenizer, lambda _: LONG)
    with pytest.raises(GenerationError, match="doesn't mark its reasoning"):
        stream_generate(model, tokenizer, ASK, reasoning_budget=5)
    with pytest.raises(GenerationError, match="list of messages"):
        stream_generate(model, tokenizer, "Why?", reasoning_budget=5)
    with pytest.raises(GenerationError, match="reasoning_budget"):
        stream_generate(model, tokenizer, ASK, reasoning_budget=-1)


def test_it_follows_a_draft_that_is_taken_back():
    """As under speculation: it is asked about tokens that are then replaced by others."""
    tokenizer = make_tokenizer(THINKING)
    protocol = reasoning_protocol("qwen")
    budget = ReasoningBudget(6, protocol, tokenizer, lambda: ToolStream(
        None, reasoning=protocol, inside=True, tokenizer=tokenizer))
    prompt = [5, 6]
    size = len(tokenizer)

    def allowed(answer: str) -> str | None:
        ids = prompt + tokenizer.encode(answer, add_special_tokens=False)
        logits = budget(mx.array(ids), mx.zeros((1, size)))
        free = [i for i, value in enumerate(logits[0].tolist()) if value == 0]
        return tokenizer.decode(free) if len(free) == 1 else None

    assert allowed("") is None
    assert allowed("abc") is None and allowed("abcdef") == "\n" and allowed("abcdef\n") == "<"
    assert allowed("abc") is None and allowed("abcxyz") == "\n"
    assert allowed("ab</think>yes it is") is None
    assert allowed("abcdef") == "\n"


def test_it_looks_only_where_the_end_may_be_due():
    tokenizer = make_tokenizer(THINKING)
    protocol = reasoning_protocol("qwen")
    budget = ReasoningBudget(50, protocol, tokenizer, lambda: ToolStream(
        None, reasoning=protocol, inside=True, tokenizer=tokenizer))
    looked = []
    look = budget._look
    budget._look = lambda answer: looked.append(len(answer)) or look(answer)
    text = "x" * 20 + "</think>" + "y" * 200
    ids = tokenizer.encode(text, add_special_tokens=False)
    for count in range(len(ids)):
        budget(mx.array([5, *ids[:count]]), mx.zeros((1, len(tokenizer))))
    assert looked == [50]
