"""What the tests of the command line share: a tiny model, and a way to run one command in this process."""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

from mlxlm.cli.group import run


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def mlxlm(capsys, monkeypatch):
    """Runs `mlxlm` with arguments; `stdin` is what is piped in, None a terminal."""

    def call(*arguments: str | Path, stdin: str | bytes | None = None) -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
        monkeypatch.setattr(stream, "isatty", lambda: stdin is None, raising=False)
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
        status = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call
