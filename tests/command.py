"""The command line in this process, for every test that speaks to it: a fixture, and what a call leaves behind."""

import io
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from mlxlm.cli.group import run


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


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
