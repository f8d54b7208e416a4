"""Which tools an answer may, must or must not call, and what else a model's conventions put around the answer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import GenerationError
from ..tools import ReasoningProtocol
from .checks import shown


class Frame(NamedTuple):
    """What an answer's text may have around and beside the answer itself, by the model's conventions.

    ``tools`` are the JSON schemas of those offered; ``inside`` tells that the prompt ends within reasoning.
    """

    format: str
    tools: Sequence[Any] | None
    protocol: ReasoningProtocol | None
    inside: bool = False


def chosen_tool(choice: Any) -> str:
    """A choice of tools as one word: "auto", "none", "required", or a tool's name; OpenAI's mapping names one too."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if not isinstance(choice, str) or not choice:
        raise GenerationError("not a choice of tools", where="tool_choice", found=shown(choice),
                              expected='"auto", "none", "required", or the name of a tool')
    return choice
