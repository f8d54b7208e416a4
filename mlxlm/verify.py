"""Verification of a model from end to end: pull, load, answer, call a tool, stop, and away with it again.

For a release: the makers' own repositories of registries/reference.toml, whose answers are known. For every day:
tiny random checkpoints, which know nothing, and are held to what must be true of any model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .data import data_file, read_toml
from .errors import MLXLMError, UsageError

QUESTION, ANSWER = "What is the capital of France? Answer with one word.", "paris"
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather in a city, now.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
ERRAND = "What is the weather in Paris now? Use the tool."
COLOUR = "Which colour fills this picture? Answer with one word."


@dataclass
class Report:
    """What became of one model. ``checks`` maps each step to None (good) or what was wrong; sizes in bytes."""

    repo: str
    checks: dict[str, str | None] = field(default_factory=dict)
    prompt_tps: float | None = None
    generation_tps: float | None = None
    peak_memory: int | None = None
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return bool(self.checks) and not any(self.checks.values())


def references() -> dict[str, str]:
    """The official repositories that are run here: repository to its task, text or vision."""
    rows = read_toml(data_file("reference.toml"))
    return {row["repo"]: task for task in ("text", "vision") for row in rows[task]}


def others() -> dict[str, str]:
    """The other official repositories, with what serves each."""
    rows = read_toml(data_file("reference.toml"))["other"]
    return {repo: f"{row['task']}: {row['served_by']}" for row in rows for repo in row["repos"]}


def official(repo: str) -> str:
    """The task of an official repository; UsageError for any other, saying what serves it where that is known."""
    known = references()
    if repo in known:
        return known[repo]
    if repo in others():
        raise UsageError("models of this kind aren't run here", where=repo, found=others()[repo])
    raise UsageError("only the makers' own repositories are verified", where=repo, expected=", ".join(known),
                     hint="For a folder of your own add --tiny.")


def verify(repo: str, *, keep: bool = False) -> Report:
    """An official repository from the hub to the hub: what was pulled for this is removed again, unless ``keep``."""
    task = official(repo)
    return _run(repo, _official_steps(repo, task, keep))


def verify_tiny(folder: str | Path) -> Report:
    """A local checkpoint, of random weights perhaps: loads, answers, repeats itself, stops; nothing is removed."""
    return _run(str(folder), _tiny_steps(folder))


Step = tuple[str, Callable[[dict[str, Any]], None]]


def _run(name: str, steps: Iterator[Step] | Sequence[Step]) -> Report:
    """Every step in order; one that fails ends the run, but for the last, which tidies up."""
    report, facts, start = Report(name), {}, time.perf_counter()
    for step, work in steps:
        failed = any(report.checks.values())
        if failed and step != "remove":
            continue
        try:
            work(facts)
            report.checks[step] = None
        except Wrong as wrong:
            report.checks[step] = str(wrong)
        except MLXLMError as error:
            report.checks[step] = f"{type(error).__name__}: {error}"
    stats = facts.get("stats")
    if stats is not None:
        report.prompt_tps, report.generation_tps = round(stats.prompt_tps, 1), round(stats.generation_tps, 1)
        report.peak_memory = int(stats.peak_memory * 1e9)
    report.seconds = round(time.perf_counter() - start, 1)
    return report


class Wrong(Exception):
    """What a model did isn't what it had to do."""


def _official_steps(repo: str, task: str, keep: bool) -> Iterator[Step]:
    from .sources import locate, store

    there = any(model.name == repo for model in store.stored())

    def remove(facts: dict[str, Any]) -> None:
        facts.pop("model", None)
        if any(model.name == repo for model in store.stored()):
            store.remove(store.find(repo))

    yield "pull", lambda facts: facts.update(path=locate(repo))
    yield "load", lambda facts: _load(facts, repo)
    yield "answer", _answers
    if task == "vision":
        yield "image", _sees
    yield "tool call", _calls
    if not keep and not there:  # what the user had before stays
        yield "remove", remove


def _tiny_steps(folder: str | Path) -> Iterator[Step]:
    yield "load", lambda facts: _load(facts, folder)
    yield "answer", _writes
    yield "repeat", _repeats
    yield "stop", _stops


def _load(facts: dict[str, Any], source: str | Path) -> None:
    from .load import load

    facts["model"], facts["processor"] = load(source)[:2]


def _ask(facts: dict[str, Any], prompt: Any, **parameters: Any) -> tuple[str, list[Any], str | None]:
    """(text, tool calls, finish reason) of a greedy answer; keeps its statistics."""
    from .generate import stream_generate

    text, calls, reason = "", [], None
    stream = stream_generate(facts["model"], facts["processor"], prompt, **parameters)
    for piece in stream:
        text, reason = text + piece.text, piece.finish_reason or reason
        calls += piece.tool_calls
    facts.setdefault("stats", stream.stats)
    return text, calls, reason


def _answers(facts: dict[str, Any]) -> None:
    text, _, reason = _ask(facts, [{"role": "user", "content": QUESTION}], max_tokens=2048)
    if ANSWER not in text.lower():
        raise Wrong(f"{QUESTION!r} was answered {text[:80]!r}")
    if reason != "stop":
        raise Wrong(f"the answer didn't end by itself ({reason}): {text[-80:]!r}")


def _sees(facts: dict[str, Any]) -> None:
    import numpy as np

    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 255
    text, _, _ = _ask(facts, [{"role": "user", "content": COLOUR}], images=[red], max_tokens=2048)
    if "red" not in text.lower():
        raise Wrong(f"a red picture was called {text[:80]!r}")


def _calls(facts: dict[str, Any]) -> None:
    text, calls, _ = _ask(facts, [{"role": "user", "content": ERRAND}], tools=[TOOL], max_tokens=2048)
    if not calls:
        raise Wrong(f"no tool was called; it said {text[:80]!r}")
    if calls[0].name != "get_weather" or "paris" not in str(calls[0].arguments.get("city", "")).lower():
        raise Wrong(f"the wrong call: {calls[0].name} {calls[0].arguments}")


def _writes(facts: dict[str, Any]) -> None:
    import numpy as np

    from .generate import stream_generate

    prompt = "Once upon a time there was a very long prompt."
    stream = stream_generate(facts["model"], facts["processor"], prompt, max_tokens=8)
    for piece in stream:
        if piece.logprobs is not None and not np.isfinite(np.array(piece.logprobs).max()):
            raise Wrong("the logits are not numbers")
    facts["stats"], facts["first"] = stream.stats, list(stream.tokens)


def _repeats(facts: dict[str, Any]) -> None:
    from .generate import stream_generate

    prompt = "Once upon a time there was a very long prompt."
    stream = stream_generate(facts["model"], facts["processor"], prompt, max_tokens=8, prefill_step_size=3)
    again = [piece.token for piece in stream if piece.token is not None]
    if again != facts["first"]:
        raise Wrong(f"read in pieces the prompt led to {again}, at once to {facts['first']}")


def _stops(facts: dict[str, Any]) -> None:
    _, _, reason = _ask(facts, "Once upon a time", max_tokens=2)
    if reason not in ("length", "stop"):
        raise Wrong(f"it ended by {reason}")
    whole, _, _ = _ask(facts, "Once upon a time", max_tokens=24)
    if len(whole) > 3:
        stop = whole[len(whole) // 2:][:2]
        text, _, reason = _ask(facts, "Once upon a time", max_tokens=24, stop=stop)
        if reason != "stop" or text != whole[:whole.index(stop)]:
            raise Wrong(f"the stop string {stop!r} left {text!r} of {whole!r}")
