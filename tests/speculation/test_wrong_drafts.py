"""What can't draft, no lookup, no amount of memory, no prompts: each is one error before a token is made."""

import pytest
import tiny

from mlxlm.errors import MLXLMError
from mlxlm.generate import generate
from mlxlm.generate.engine import batch_generate
from mlxlm.load import load


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


class Layer:
    """Callable, with a cache, and still no model."""

    def __call__(self, tokens):
        return tokens

    def make_cache(self):
        return None


@pytest.mark.parametrize("draft", ["nonsense", "", 5, True, [], object(), Layer(), (Layer(), None)], ids=repr)
def test_what_cannot_draft_is_told(loaded, draft):
    with pytest.raises(MLXLMError, match="draft: nothing that drafts"):
        generate(*loaded, "hi", max_tokens=4, draft=draft)


@pytest.mark.parametrize("wrong, message", [
    ({"prompt_lookup": "x"}, "prompt_lookup: not a lookup"), ({"prompt_lookup": 1}, "prompt_lookup: not a lookup"),
    ({"draft": "lookup", "num_draft_tokens": 1.5}, "num_draft_tokens"),
    ({"memory_limit": "much"}, "not an amount of memory"), ({"memory_limit": -1}, "not an amount of memory"),
    ({"memory_limit": True}, "not an amount of memory"),
], ids=str)
def test_wrong_settings_are_told_for_the_shortest_prompt(loaded, wrong, message):
    with pytest.raises(MLXLMError, match=message):
        generate(*loaded, "hi", max_tokens=4, **wrong)
    expected = generate(*loaded, "hi", max_tokens=4)
    assert generate(*loaded, "hi", max_tokens=4, draft=False, prompt_lookup=None, memory_limit="off") == expected


def test_a_batch_of_nothing_said_is_told(loaded):
    with pytest.raises(MLXLMError, match="prompts: not a list"):
        batch_generate(*loaded, None)
    assert list(batch_generate(*loaded, [])) == []
