"""What commands print, word by word, against the files in golden/; MLXLM_GOLDEN=write makes those anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlxlm.cli.group import COMMANDS

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit", "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
         "nomic-ai/nomic-embed-text-v1.5")


def same(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    if os.environ.get("MLXLM_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file() and text == path.read_text(encoding="utf-8"), f"{path}: MLXLM_GOLDEN=write writes it anew"


@pytest.fixture(autouse=True)
def width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of every command, from a process of its own: click keeps what another test has asked for."""
    code = ("import contextlib, io, json\nfrom mlxlm.cli.group import COMMANDS, run\nfound = {}\n"
            "for name in COMMANDS:\n    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
            "        run([name, '--help'])\n    found[name] = out.getvalue()\nprint(json.dumps(found))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                          env={**os.environ, "COLUMNS": "100"})
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(helps, command):
    same(f"help-{command}", helps[command])


def test_the_help_of_all(mlxlm):
    same("help", mlxlm("--help").out)


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_name(mlxlm, number):
    same(f"name-{number + 1}", mlxlm("name", NAMES[number]).out)


def test_tables_of_the_registry(mlxlm):
    same("registry-qwen3-presets", mlxlm("registry", "qwen3", "--presets").out)
    head, names, *rows = mlxlm("registry", "--types").out.splitlines()
    assert re.fullmatch(r"types: \d+", head) and int(head.split()[1]) == len(rows) > 100
    starts = [match.start() for match in re.finditer(r"\S+( \S+)*", names)]
    assert names.split()[:3] == ["type", "for", "support"] and len(starts) >= 8
    for row in rows:  # every cell begins below its column's name
        assert all(row[start - 1:start].isspace() or not row[start - 1:start] for start in starts[1:]), row
    assert {row.split()[1] for row in rows} <= {"text", "vision"}


def test_facts_of_a_model(mlxlm, model):
    text = mlxlm("info", model, "--context", 100).out.replace(model, "MODEL")
    text = re.sub(r"(?<=memory        ).*", "…", re.sub(r"(?<=kernels       ).*", "…", text))
    same("info", text)


def test_commands_of_a_conversation(mlxlm, model):
    same("chat-help", mlxlm("chat", model, stdin="/help\n").err)
