"""A whole tool conversation on real weights: SmolLM2 chooses among calls, is told the result, and answers from it.

The model is too small to write a call unasked, so that its first answer is held to one of several calls: which one is
its own choice, and the rest is its own text.
"""

from __future__ import annotations

import json
import warnings
from functools import cache

import mlx.core as mx
import pytest

import mlxlm
from mlxlm.chat import ChatSession
from mlxlm.generate import stream_generate

CITIES = ("Paris", "London", "Tokyo", "Cairo")
CALLS = [f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in CITIES]
TOLD = "<tool_response>\n"


@cache
def smollm2():
    return mlxlm.load("smolLM2_135M")


def get_weather(city: str) -> dict:
    """The weather in a city, right now.

    Args:
        city: Its name.
    """
    return {"city": city, "sky": "sunny", "degrees": 21}


class OneOf:
    """A logits processor: the answer is one of the texts, unless a tool's result stands in the prompt."""

    def __init__(self, tokenizer, texts):
        end = min(tokenizer.eos_token_ids)
        self.tokenizer = tokenizer
        self.texts = [[*tokenizer.encode(text, add_special_tokens=False), end] for text in texts]
        self.start = None

    def __call__(self, tokens, logits):
        ids = tokens.tolist()
        self.start = len(ids) if self.start is None or len(ids) < self.start else self.start
        said = ids[self.start:]
        allowed = sorted({text[len(said)] for text in self.texts if text[:len(said)] == said and len(text) > len(said)})
        if TOLD in self.tokenizer.decode(ids) or not allowed:
            return logits
        mask = mx.full(logits.shape, -mx.inf)
        mask[:, mx.array(allowed)] = 0.0
        return logits + mask


@pytest.mark.parametrize("city", CITIES)
def test_the_model_chooses_a_call_and_answers_from_its_result(city):
    model, tokenizer = smollm2()
    chat = ChatSession(model, tokenizer, instructions="Use your tools.", tools=[get_weather], max_tokens=40,
                       logits_processors=[OneOf(tokenizer, CALLS)])
    question = f"What is the weather like in {city} today?"
    with pytest.warns(UserWarning, match="tools are described in the system message"):
        reply = chat.respond(question)
    [result] = reply.results
    assert (result.call.name, result.call.arguments) == ("get_weather", {"city": city})
    assert city in reply and "sunny" in reply and reply.finish_reason == "stop"
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(chat.messages[3]["content"]) == {"city": city, "sky": "sunny", "degrees": 21}
    first, second = reply.rounds
    assert second.cached_tokens >= first.prompt_tokens and second.prompt_tokens < 60
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = "".join(piece.text for piece in stream_generate(
            model, tokenizer, chat.messages[:-1], tools=[get_weather], max_tokens=40))
    assert reply == whole


def test_the_same_choice_under_a_grammar():
    model, tokenizer = smollm2()
    messages = [{"role": "user", "content": "What is the weather like in Tokyo today?"}]
    with pytest.warns(UserWarning, match="described"):
        pieces = list(stream_generate(model, tokenizer, messages, tools=[get_weather], response_format=CALLS,
                                      max_tokens=80))
    calls = [call for piece in pieces for call in piece.tool_calls]
    assert [(call.name, call.arguments) for call in calls] == [("get_weather", {"city": "Tokyo"})]
    assert "".join(piece.text for piece in pieces) == "" and pieces[-1].finish_reason == "tool_calls"
