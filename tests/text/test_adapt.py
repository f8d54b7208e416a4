"""Templates that refuse messages, or leave parts out: they get what they can take, and the user is told of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from mlxlm.errors import TemplateError
from mlxlm.text.adapt import adapted, for_translation, one_call_each, one_turn_each, system_to_user
from mlxlm.text.template import render

TEMPLATES = {path.stem: path.read_text() for path in sorted(Path(__file__).with_name("templates").glob("*.jinja"))}
LINES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
SILENT = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% set x = tools %}"
STRICT = ("{% if messages[0].role == 'system' %}{{ raise_exception('No system messages') }}{% endif %}"
          "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
          "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
SINGLE = ("{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}"
          "{{ raise_exception('One call only') }}{% endif %}{{ m.role }}: {{ m.content }}"
          "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{{ '\n' }}{% endfor %}{% set x = tools %}")
SYSTEM, A, B = ({"role": role, "content": text} for role, text in (("system", "S"), ("user", "A"), ("user", "B")))
ANSWER = {"role": "assistant", "content": "Yes"}
TOOL = {"type": "function", "function": {"name": "now", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {"zone": "é"}}}


class Teller:
    name = "some/model"

    def __init__(self, template):
        self.template = template

    def get_chat_template(self, chat_template=None, tools=None):
        return self.template


def text_of(template, messages, tools=None):
    """(the text, what the user is told)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        text = adapted(Teller(template), messages, tools,
                       lambda chat, offered: render(template, chat, tools=offered).text)
    return text, [str(one.message) for one in told]


def test_what_can_be_taken_is_taken_as_it_is():
    assert text_of(LINES, [SYSTEM, A, ANSWER, B]) == ("system: S\nuser: A\nassistant: Yes\nuser: B\n", [])
    assert text_of(STRICT, [A, ANSWER, B]) == ("user: A\nassistant: Yes\nuser: B\n", [])


@pytest.mark.parametrize(("messages", "text", "told"), [
    ([SYSTEM, A], "user: S\n\nA\n", ["system message stands"]),
    ([A, B], "user: A\n\nB\n", ["in a row are one"]),
    ([SYSTEM, A, B, ANSWER, B], "user: S\n\nA\n\nB\nassistant: Yes\nuser: B\n", ["in a row are one", "system message"]),
    ([SYSTEM], "user: S\n", ["system message"]),
])
def test_what_is_refused_is_changed_as_little_as_will_do(messages, text, told):
    found, [warning] = text_of(STRICT, messages)
    assert found == text and warning.startswith("some/model: ") and all(part in warning for part in told)


def test_a_system_message_that_would_be_lost_goes_to_the_user():
    text, [warning] = text_of(SILENT, [SYSTEM, A])
    assert text == "user: S\n\nA\n" and "system message" in warning
    assert text_of(SILENT, [A]) == ("user: A\n", [])


def test_where_nothing_helps_the_templates_refusal_is_told():
    with pytest.raises(TemplateError, match="Never"):
        text_of("{{ raise_exception('Never') }}", [SYSTEM, A])
    with pytest.raises(TemplateError, match="isn't there"):
        text_of("{{ messages[0].nothing.at_all }}", [SYSTEM, A])


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_real_styles_that_refuse(name):
    text, _ = text_of(TEMPLATES[name], [SYSTEM, A, B])
    assert "S" in text and "A\n\nB" in text


def test_several_calls_become_one_message_each():
    said = [A, {**ANSWER, "tool_calls": [CALL, {**CALL, "id": "2"}]},
            {"role": "tool", "content": "two", "tool_call_id": "2"},
            {"role": "tool", "content": "one", "tool_call_id": "1"}, B]
    text, [warning] = text_of(SINGLE, said)
    assert text == "user: A\nassistant: now\ntool: two\nassistant: Yesnow\ntool: one\nuser: B\n"
    assert "several calls" in warning
    waiting = one_call_each(said[:2])
    assert [m["tool_calls"][0]["id"] for m in waiting[1:]] == ["1", "2"]


def test_tools_that_a_template_does_not_know_are_told_in_the_system_message():
    said = [SYSTEM, A, {**ANSWER, "tool_calls": [CALL]}, {"role": "tool", "content": "noon", "tool_call_id": "1"}]
    text, [warning] = text_of(LINES, said, [TOOL])
    assert '"name": "now"' in text and text.startswith("system: S\n\nYou can call") and "described" in warning
    assert text.endswith('assistant: Yes\n<tool_call>\n{"name": "now", "arguments": {"zone": "é"}}\n</tool_call>\n'
                         "user: <tool_response>\nnoon\n</tool_response>\n")
    alone, _ = text_of(LINES, [A], [TOOL])
    assert alone.startswith("system: You can call") and alone.endswith("</tools>\nuser: A\n")


def test_parts_stay_parts():
    image = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "look"}]}
    [message] = system_to_user([SYSTEM, image])
    assert [part["type"] for part in message["content"]] == ["text", "text", "image", "text"]
    [message] = one_turn_each([image, A])
    assert message["content"][-1] == {"type": "text", "text": "A"}
    assert one_turn_each([{**ANSWER, "tool_calls": [CALL]}, ANSWER]) == [{**ANSWER, "tool_calls": [CALL]}, ANSWER]


def test_translations_name_their_languages():
    codes = {"source_lang_code": "en", "target_lang_code": "de"}
    assert for_translation([SYSTEM, A, ANSWER], codes) == [
        {"role": "user", "content": [{"type": "text", **codes, "text": "A"}]}, ANSWER]
    assert for_translation([A], {}) == [A]
