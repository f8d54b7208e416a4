"""The whole of an answer as a grammar: reasoning first where the model reasons, then what was asked for, or calls."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import GenerationError
from .checks import shown
from .constrain import Constraint, make_constraint
from .constrain_calls import Lark, calls_rule
from .constrain_formats import Grammars, as_grammars
from .constrain_vocabulary import vocabulary_of
from .tool_choice import Frame, chosen_tool


def answer_constraint(tokenizer: Any, ends: Iterable[int], response_format: Any, tool_choice: Any,
                      frame: Frame | None) -> Constraint | None:
    """The constraint that a response format and a choice of tools make together, or None.

    "required" holds the answer to calls, a tool's name to one call of it, "auto" to calls that fit the schemas wherever
    one begins, if a tool says ``strict``; with a response format the answer is either that or calls.
    Raises GenerationError for what can't be enforced.
    """
    asked = response_format is not None and response_format != {"type": "text"}
    choice = chosen_tool(tool_choice)
    forced = choice not in ("auto", "none")
    tools = frame.tools if frame is not None and choice != "none" else None
    if forced and not tools:
        raise GenerationError("there are no tools to call", where="tool_choice", found=shown(tool_choice),
                              hint="Pass tools=[…], and a list of messages for a prompt.")
    strict = bool(tools) and any(_strict(tool) for tool in tools or ())
    protocol = frame.protocol if frame is not None else None
    if not (asked or forced or strict):
        return None
    if protocol is None and not (forced or strict):
        return make_constraint(tokenizer, response_format, ends)
    vocabulary = vocabulary_of(tokenizer, ends)
    lark = Lark(vocabulary.special)
    grammar = as_grammars(response_format) if asked and not forced else None
    body = _body(lark, frame, choice, tools, grammar)
    start = _after_reasoning(lark, frame, body) if frame is not None and protocol is not None else body
    first = {"lark_grammar": lark.text(f'" "? {start}' if vocabulary.drops_space else start)}
    others = () if grammar is None else ({"name": "answer", **grammar.first}, *grammar.others)
    return Constraint(vocabulary, Grammars(first, others).text())


def _strict(tool: Any) -> bool:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return isinstance(inner, Mapping) and (inner.get("strict") is True or tool.get("strict") is True)


def _body(lark: Lark, frame: Frame | None, choice: str, tools: Sequence[Any] | None, grammar: Grammars | None) -> str:
    """The rule of what follows reasoning."""
    if frame is None or not tools:
        return "@answer"
    calls = calls_rule(lark, frame.format, tools, None if choice in ("auto", "required") else choice)
    if choice != "auto":
        return calls.whole
    if grammar is not None:
        return f"({calls.whole} | @answer)"
    if lark.starts_special(calls.opener):
        return lark.rule(f"{lark.anything()} ({calls.whole})?")
    if len(calls.opener) == 1:
        other = lark.rule(f"/([^\\{calls.opener}](.|\\n)*)?/")
        return f"({calls.whole} | {other})"
    lazy = lark.rule("/(.|\\n)*/", f"[suffix={lark.words(calls.opener)}]")
    return lark.rule(f"({lazy} {calls.rest})? {lark.anything()}")


def _after_reasoning(lark: Lark, frame: Frame, body: str) -> str:
    protocol = frame.protocol
    if protocol is None:
        return body
    ended = lark.rule(" | ".join(lark.until(end) for end in protocol.ends))
    gap = f"/\\n{{0,{max(protocol.outer_newlines, 2)}}}/"
    if frame.inside:
        return lark.rule(f"{ended} {gap} {body}")
    return lark.rule(f"({lark.words(protocol.start)} {ended} {gap})? {body}")
