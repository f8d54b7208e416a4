"""Rendered prompts against transformers' apply_chat_template, over templates of many styles and many conversations."""

from pathlib import Path

import pytest
from rendering import CHATS, TOOLS, compare, ours, theirs

from mlxlm.errors import MLXLMError, TemplateError
from mlxlm.text.template import render

TEMPLATES = {path.stem: path.read_text() for path in sorted(Path(__file__).with_name("templates").glob("*.jinja"))}

@pytest.mark.parametrize("name", TEMPLATES)
def test_golden_set(name):
    assert compare(TEMPLATES[name]) >= len(CHATS)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("field", [True, "content", "reasoning_content", "thinking", "missing"])
def test_an_open_last_message(name, field):
    options = {"continue_final_message": field, "tools": TOOLS}
    rendered = 0
    for title, chat in CHATS.items():
        expected = theirs(TEMPLATES[name], chat, options)
        if expected is None:
            with pytest.raises(MLXLMError):
                ours(TEMPLATES[name], chat, options)
        else:
            rendered += 1
            assert ours(TEMPLATES[name], chat, options) == expected, title
    assert rendered or field not in (True, "content")


def test_generation_blocks_tell_where_they_stand():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "één"},
            {"role": "assistant", "content": "zwei", "thinking": "hm"}]
    made = render(TEMPLATES["dated"], chat)
    assert [made.text[start:end] for start, end in made.generation] == ["één", "analysis hm zwei"]


def test_refusals_keep_the_templates_words():
    with pytest.raises(TemplateError, match=r"mine.jinja, line \d+: Roles must alternate"):
        render(TEMPLATES["mistral"], [{"role": "assistant", "content": "x"}], where="mine.jinja",
               variables={"bos_token": ""})
