"""Renders chat templates as transformers does, within a budget: a template can refuse, but not hang or eat memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from mlxlm.errors import TemplateError
from mlxlm.text.limits import Budget, TemplateLimit, spending
from mlxlm.text.messages import REASONING, check_messages, check_objects, plain

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST = 2 << 20
"""The most characters of a template's own text."""

_MARK = "MLXLM_CONTINUES_HERE "

# What compiled template code, and jinja2 itself, can raise on a template's or a caller's account.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, RuntimeError,
           SyntaxError, TypeError, ValueError)


@dataclass(frozen=True)
class Rendered:
    """The text of a prompt, and where in it the `{% generation %}` blocks stand, as (start, end) in characters."""

    text: str
    generation: list[tuple[int, int]] = field(default_factory=list)


def render(template: str, messages: Any, *, tools: Sequence[Any] | None = None,
           documents: Sequence[Any] | None = None, add_generation_prompt: bool = True,
           continue_final_message: bool | str = False, variables: Mapping[str, Any] | None = None,
           where: object = "chat template") -> Rendered:
    """Renders a chat template.

    `variables` are the template's other names (special tokens, `enable_thinking`). `continue_final_message` leaves
    the last message open, at its content or at the field named. `where` names the template in errors. Raises
    TemplateError if the template is wrong, refuses the messages or uses too much; UsageError for wrong arguments.
    """
    chat = check_messages(messages)
    names = {**plain(dict(variables or {})), "messages": chat, "tools": check_objects(tools, "tools"),
             "documents": check_objects(documents, "documents"), "add_generation_prompt": add_generation_prompt}
    final = _open_final(chat, template, continue_final_message) if continue_final_message else None
    compiled = compile_template(template, where)
    with _explained(where), spending(Budget([chat, list(names.values())])) as budget:
        pieces = []
        for piece in compiled.root_render_func(compiled.new_context(names)):
            budget.written += len(piece)
            budget.made(piece)
            pieces.append(piece)
        text = "".join(pieces)
    if final is not None:
        text = _cut(text, final, where)
    return Rendered(text, budget.spans)


def compile_template(template: str, where: object = "chat template") -> Template:
    """The compiled template, kept for the next rendering of the same text."""
    if len(template) > LONGEST:
        raise TemplateError("the chat template is too long", where=where, found=f"{len(template):,} characters",
                            expected=f"at most {LONGEST:,}")
    with _explained(where):
        return _compiled(template)


@lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


@cache
def _environment() -> Any:
    from mlxlm.text.sandbox import ChatEnvironment

    return ChatEnvironment()


@contextmanager
def _explained(where: object) -> Iterator[None]:
    """Turns everything that a template can raise into a TemplateError with its file and line."""
    import jinja2

    try:
        yield
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template has a syntax error: {error.message}",
                            where=f"{where}, line {error.lineno}") from error
    except TemplateLimit as error:
        raise TemplateError(error.problem, where=_place(where, error)) from error
    except jinja2.UndefinedError as error:
        raise TemplateError(f"the chat template needs something that isn't there: {error.message}",
                            where=_place(where, error)) from error
    except jinja2.TemplateError as error:
        refused = type(error) is jinja2.TemplateError
        problem = error.message if refused else f"the chat template may not do this: {error.message}"
        raised = TemplateError(problem or "the chat template refused the messages", where=_place(where, error))
        raised.refused = refused
        raise raised from error
    except RecursionError as error:
        raise TemplateError("the chat template is nested too deeply", where=where) from error
    except _FAULTS as error:
        raise TemplateError(f"the chat template failed: {type(error).__name__}: {str(error)[:300]}",
                            where=_place(where, error)) from error


def _place(where: object, error: BaseException) -> str:
    """The file and the last line of the template on the way to an error."""
    line, trace = None, error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return f"{where}, line {line}" if line else str(where)


def _open_final(chat: list[dict], template: str, key: bool | str) -> str:
    """Marks the end of the last message; returns the text that is to be continued."""
    key = key if isinstance(key, str) else "content"
    last = chat[-1]
    content = last.get(key)
    if isinstance(content, list):
        part = next((part for part in reversed(content) if isinstance(part, dict) and "text" in part), None)
        if part is None:
            raise TemplateError("the last message has no text to continue", where=f"messages[{len(chat) - 1}]")
        text, part["text"] = part["text"], part["text"] + _MARK
        return text
    keys = [name for name in REASONING if last.get(name) == content] if key in REASONING else [key]
    if not isinstance(content, str):
        raise TemplateError(f"the last message has no `{key}` to continue", where=f"messages[{len(chat) - 1}]")
    if not any(name in template for name in keys):
        raise TemplateError(f"the chat template has no `{key}` to continue")
    for name in keys:
        last[name] = content + _MARK
    return content


def _cut(text: str, final: str, where: object) -> str:
    """The prompt up to the mark; where the template stripped the message's end, so is the prompt's."""
    at = text.rfind(_MARK.strip())
    if at < 0 or final.strip() not in text:
        raise TemplateError("the chat template leaves out the message that is to be continued", where=where)
    return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()
