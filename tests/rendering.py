"""Rendered prompts of ours and of transformers' for the same template, messages and options."""

from __future__ import annotations

import itertools
from functools import cache

import pytest

from mlxlm.errors import MLXLMError
from mlxlm.text.template import render

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather of a place, e.g. Köln <b>",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Name"}, "days": {"type": "integer"},
            "units": {"type": ["string", "number"]}, "near": {"type": "array", "items": {"type": "number"}},
            "more": {"type": "object", "additionalProperties": {"type": "boolean"}}}}}},
    {"type": "function", "function": {"name": "now", "description": "The time",
                                      "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "call12345", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}
CHATS = {
    "one": [{"role": "user", "content": "Hi  "}],
    "system": [{"role": "system", "content": " Be kind. "}, {"role": "user", "content": "Hé\n\"quoted\" <a>"}],
    "three": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "},
              {"role": "user", "content": "banana"}],
    "answered": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"}],
    "reasoned": [{"role": "user", "content": "a"},
                 {"role": "assistant", "content": "b", "reasoning_content": "because"}],
    "thought": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "well"}],
    "older name": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "so"}],
    "called": [{"role": "user", "content": "Weather?"},
               {"role": "assistant", "content": None, "tool_calls": [CALL]},
               {"role": "tool", "content": "sunny", "name": "get_weather", "tool_call_id": "call12345"}],
    "called twice": [{"role": "user", "content": "Weather?"},
                     {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]},
                     {"role": "tool", "content": "sunny"}, {"role": "tool", "content": "{\"a\": 1}"},
                     {"role": "assistant", "content": "Sunny."}, {"role": "user", "content": "Thanks"}],
    "json text": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "123456789", "function": {"name": "now", "arguments": "{\"a\": \"é\"}"}}]}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " look "}, {"type": "image"},
                                           {"type": "text", "text": "there"}]}],
    "odd roles": [{"role": "skip", "content": "x"}, {"role": "user", "content": "y", "name": None, "extra": [1]},
                  {"role": "critic", "content": "z"}],
}
OPTIONS = [
    {},
    {"add_generation_prompt": True},
    {"tools": TOOLS, "add_generation_prompt": True},
    {"tools": TOOLS, "tools_in_user_message": False, "enable_thinking": False, "add_generation_prompt": True},
    {"documents": [{"title": "t", "text": "x"}, {"title": "", "text": "y"}], "date_string": "1 Jan", "pad_token": "P"},
]


@cache
def reference():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {token: i for i, token in enumerate(("<|begin_of_text|>", "<|eot_id|>", "<image>"))}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<image>")),
                                   bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", image_token="<image>")


def theirs(template, chat, options):
    try:
        return reference().apply_chat_template(chat, chat_template=template, tokenize=False, **options)
    except Exception:
        return None


def ours(template, chat, options):
    named = {key: options.get(key) for key in ("tools", "documents")}
    more = {k: v for k, v in options.items() if k not in ("tools", "documents", "add_generation_prompt")}
    return render(template, chat, **named, add_generation_prompt=options.get("add_generation_prompt", False),
                  continue_final_message=more.pop("continue_final_message", False),
                  variables={**reference().special_tokens_map, **more}).text


def compare(template: str) -> int:
    """Compares both for every conversation and options; where the reference refuses, so must we. Counts renderings."""
    rendered = 0
    for (title, chat), options in itertools.product(CHATS.items(), OPTIONS):
        expected = theirs(template, chat, options)
        if expected is None:
            with pytest.raises(MLXLMError):
                ours(template, chat, options)
        else:
            rendered += 1
            assert ours(template, chat, options) == expected, (title, options)
    return rendered
