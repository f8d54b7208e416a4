"""Speed of a model here, and of other engines on the same file: one process an engine, their trials in turn.

Machines drift: engines that are measured one after the other see different machines. Here each trial asks every
engine once, so that medians and ratios are of the same minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from .errors import UsageError

ENGINES = {"mlxlm": "mlxlm", "mlxlm-int8": "mlxlm", "mlx-lm": "mlx_lm", "llama.cpp": "llama_cpp",
           "transformers": "transformers"}
"""Engine to the module that must be installed for it; mlxlm-int8 is mlxlm with activations in 8 bits."""


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the trials."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One engine at one prompt length and batch size; rates in tokens per second over the whole batch."""

    engine: str
    prompt_tokens: int
    generation_tokens: int
    batch: int
    prompt_tps: Spread | None = None
    generation_tps: Spread | None = None
    left_out: str | None = None


def measure(path: Path, engines: Sequence[str], prompts: Sequence[int], generation: int, batches: Sequence[int],
            trials: int, told: Callable[[str], Any] = lambda text: None) -> list[Row]:
    """A row for each engine, prompt length and batch size. ``path`` is a model's folder or .gguf file.

    An engine that isn't installed, or can't take the file, has rows that say so. Raises UsageError for an unknown one.
    """
    for engine in engines:
        if engine not in ENGINES:
            raise UsageError("unknown engine", where="--compare", found=repr(engine), expected=", ".join(ENGINES))
    running = {engine: Engine(engine, path) for engine in engines}
    rows = []
    try:
        for prompt in prompts:
            for batch in batches:
                told(f"prompt of {prompt}, {generation} more, batch of {batch}")
                rows += _one(running, prompt, generation, batch, trials)
    finally:
        for engine in running.values():
            engine.close()
    return rows


def _one(running: dict[str, Engine], prompt: int, generation: int, batch: int, trials: int) -> list[Row]:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for trial in range(trials + 1):  # the first warms up, and isn't counted
        for name, engine in running.items():
            answer = engine.ask(prompt, generation, batch)
            if answer is not None and trial:
                seconds[name].append(answer)
    rows = []
    for name, engine in running.items():
        if engine.failed or not seconds[name]:
            rows.append(Row(name, prompt, generation, batch, left_out=engine.failed or "not measured"))
            continue
        reading, writing = zip(*seconds[name], strict=True)
        rows.append(Row(name, prompt, generation, batch, Spread.of(batch * prompt / s for s in reading),
                        Spread.of(batch * (generation - 1) / s for s in writing) if generation > 1 else None))
    return rows


class Engine:
    """A process that holds a model in one engine and answers with the seconds of a prompt and of what follows."""

    def __init__(self, name: str, path: Path):
        self.failed: str | None = None
        self._process: subprocess.Popen[str] | None = None
        if find_spec(ENGINES[name]) is None:
            self.failed = f"{ENGINES[name]} is not installed"
            return
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `close`)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlxlm.bench_engines", name, str(path)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment)
        self._read()  # the model is loaded

    def ask(self, prompt: int, generation: int, batch: int) -> tuple[float, float] | None:
        """(seconds of the prompt, seconds of the tokens after the first), or None where it can't."""
        if self.failed or self._process is None or self._process.stdin is None:
            return None
        with contextlib.suppress(BrokenPipeError):  # what it died of is read below
            print(json.dumps([prompt, generation, batch]), file=self._process.stdin, flush=True)
        answer = self._read()
        return None if answer is None else (answer[0], answer[1])

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._errors.close()

    def _read(self) -> list[float] | None:
        stdout = self._process.stdout if self._process is not None else None
        for line in stdout or ():
            if line.startswith("{"):  # an engine may print lines of its own
                answer = json.loads(line)
                self.failed = answer.get("error")
                return answer.get("seconds")
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        self.failed = said[-1][:200] if said else "its process ended"
        return None


def bars(rows: Sequence[Row], width: int = 40) -> list[str]:
    """The rows as lines of bars, for a terminal: a block of lines for each prompt length and batch, longest first."""
    lines = []
    for (prompt, batch), group in _groups(rows).items():
        for title, field in ((f"prompt of {prompt}", "prompt_tps"), ("generation", "generation_tps")):
            done = sorted((r for r in group if getattr(r, field)), key=lambda r: -getattr(r, field).median)
            if not done:
                continue
            lines.append(f"{title}, batch of {batch}, tokens per second")
            top = getattr(done[0], field).median
            for row in done:
                value = getattr(row, field)
                filled = "█" * max(1, round(width * value.median / top))
                lines.append(f"  {row.engine:<13}{filled:<{width}} {value.median:9.1f}")
    return lines


def svg(rows: Sequence[Row]) -> str:
    """The same bars as an SVG picture."""
    from html import escape

    lines, height = [], 20
    for line in bars(rows, 100):
        if line.startswith("  "):
            name, blocks, value = line[2:15].strip(), line.count("█"), line.rsplit(None, 1)[1]
            lines.append(f'<text x="10" y="{height}">{escape(name)}</text><rect x="120" y="{height - 11}" '
                         f'width="{blocks * 4}" height="13" fill="#4878a8"/><text x="{130 + blocks * 4}" '
                         f'y="{height}">{value}</text>')
        else:
            height += 10
            lines.append(f'<text x="10" y="{height}" font-weight="bold">{escape(line)}</text>')
        height += 20
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" '
            f'font-size="13">\n' + "\n".join(lines) + "\n</svg>\n")


def _groups(rows: Sequence[Row]) -> dict[tuple[int, int], list[Row]]:
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.prompt_tokens, row.batch), []).append(row)
    return groups
