"""Messages at the border: what is taken, how it reaches the template, and what the errors name."""

import dataclasses
import enum

import numpy as np
import pytest

from mlxlm.errors import UsageError
from mlxlm.text.messages import check_messages, check_objects, plain
from mlxlm.text.template import render


class Role(enum.StrEnum):
    USER = "user"


@dataclasses.dataclass
class Message:
    role: str
    content: str


class Pydantic:
    def model_dump(self):
        return {"role": "user", "content": "x"}


@pytest.mark.parametrize("given", [
    [{"role": "user", "content": "x"}], ({"role": "user", "content": "x"},), "x", [Message("user", "x")],
    [Pydantic()], [{"role": Role.USER, "content": "x", "name": None}],
])
def test_one_message_in_many_forms(given):
    assert check_messages(given) == [{"role": "user", "content": "x"}]
    assert type(check_messages(given)[0]["role"]) is str


@pytest.mark.parametrize(("given", "named"), [
    (None, "messages"), (3, "messages"), ([], "messages"), (b"x", "messages"), ({"role": "user"}, "messages"),
    ([3], r"messages\[0\]"), (["x"], r"messages\[0\]"),
    ([{"content": "x"}], r"messages\[0\].role"),
    ([{"role": "user", "content": "x"}, {"role": 3}], r"messages\[1\].role"),
    ([{"role": ""}], r"messages\[0\].role"),
    ([{"role": "user", "content": 3}], r"messages\[0\].content"),
    ([{"role": "user", "content": {"a": 1}}], r"messages\[0\].content"),
    ([{"role": "user", "content": [3]}], r"messages\[0\].content\[0\]"),
    ([{"role": "user", "content": ["x", {"type": "text", "text": 3}]}], r"messages\[0\].content\[1\].text"),
    ([{"role": "assistant", "tool_calls": {}}], r"messages\[0\].tool_calls"),
    ([{"role": "assistant", "tool_calls": [3]}], r"messages\[0\].tool_calls"),
])
def test_errors_name_the_index_and_field(given, named):
    with pytest.raises(UsageError, match=f"^{named}: "):
        check_messages(given)
    with pytest.raises(UsageError):
        render("{{ messages }}", given)


def test_tools_and_documents():
    assert check_objects(None, "tools") is None
    assert check_objects([{"a": (1,)}], "tools") == [{"a": (1,)}]
    for wrong, named in (([print], r"tools\[0\]"), ("x", "tools"), ([{}, 3], r"tools\[1\]"), (3, "tools")):
        with pytest.raises(UsageError, match=f"^{named}: "):
            check_objects(wrong, "tools")


def test_templates_see_plain_data_only():
    class Danger:
        def save(self, path):
            raise AssertionError("reached")

    given = [{"role": "user", "content": [{"type": "image", "image": Danger()}], "n": np.float32(2), "b": np.bool_(0)}]
    assert check_messages(given)[0] == {
        "role": "user", "content": [{"type": "image", "image": "<Danger>"}], "n": 2.0, "b": False}
    assert plain(np.zeros(3)) == "<ndarray>"
    loop = []
    loop.append(loop)
    with pytest.raises(UsageError, match="holds itself"):
        plain(loop)


def test_the_callers_messages_stay_as_they_are():
    given = [{"role": "user", "content": [{"type": "text", "text": "x"}], "extra": None}]
    render("{{ messages[0].content[0].text }}", given, continue_final_message=True)
    assert given == [{"role": "user", "content": [{"type": "text", "text": "x"}], "extra": None}]
