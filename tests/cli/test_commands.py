"""The group of commands: help, suggestions, exit statuses, colours, pipes; `registry` against the registries."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
import tiny

import mlxlm as package
from mlxlm.cli.group import COMMANDS

RUN = [sys.executable, "-c", "from mlxlm.cli import main; main()"]


def test_help_lists_every_command_and_each_has_help_with_examples(mlxlm):
    whole = mlxlm("--help")
    assert whole.status == 0 and mlxlm().out == whole.out
    for name, line in COMMANDS.items():
        assert f"{name} " in whole.out
        own = mlxlm(name, "--help")
        assert own.status == 0 and own.out.startswith(f"Usage: mlxlm {name}")
        assert line.split(",")[0].rstrip(".") in " ".join(own.out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_there_at_once(name):
    def cpu() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    before = cpu()
    subprocess.run([*RUN, name, "--help"], capture_output=True, timeout=60, check=True)
    assert cpu() - before < 0.3


def test_version(mlxlm):
    assert mlxlm("--version").out == f"mlxlm {package.__version__}\n"


@pytest.mark.parametrize("arguments, message", [
    (["genrate"], "There is no command 'genrate'. Did you mean 'generate'?"),
    (["zzz"], f"Commands: {', '.join(COMMANDS)}."),
    (["--versoin"], "Did you mean"),
    (["info"], "Missing argument 'MODEL'"),
    (["info", "x", "--context", "0"], "0 is not in the range"),
    (["chat"], "no models were given"),
])
def test_wrong_use_exits_with_2(mlxlm, arguments, message):
    done = mlxlm(*arguments)
    assert done.status == 2 and done.out == ""
    assert done.err.startswith("error: ") and message in done.err


def test_registry_lists_types_and_presets_and_filters(mlxlm):
    tables = json.loads(mlxlm("registry", "--json").out)
    assert [row["type"] for row in tables["types"] if row["for"] == "text"] == package.LLMTypeRegistry.shared.list()
    names = [row["name"] for row in tables["presets"]]
    assert names == [*package.LLMRegistry.names, *package.VLMRegistry.names]
    some = json.loads(mlxlm("registry", "QWEN3", "--json", "--types").out)
    assert set(some) == {"types"} and 0 < len(some["types"]) < len(tables["types"])
    assert all("qwen3" in json.dumps(row) for row in some["types"])
    text = mlxlm("registry", "smolLM2_135M", "--presets").out
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in text and "types" not in text
    nothing = mlxlm("registry", "no such thing")
    assert nothing.out == "" and "no such thing" in nothing.err


def test_a_reader_that_goes_away_is_no_error():
    command = " ".join([*(f"'{part}'" for part in RUN), "registry", "| head -n 1; echo ${PIPESTATUS[0]}"])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("types:") and done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "1")  # 0 where all was written before the reader went


def test_errors_have_no_colour_without_a_terminal():
    done = subprocess.run([*RUN, "genrate"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "\x1b" not in done.stderr


@pytest.mark.parametrize("no_color, coloured", [(None, True), ("", True), ("1", False)])
def test_no_color_is_respected_on_a_terminal(no_color, coloured):
    pexpect = pytest.importorskip("pexpect")
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    if no_color is not None:
        environment["NO_COLOR"] = no_color
    child = pexpect.spawn(RUN[0], [*RUN[1:], "genrate"], env=environment, encoding="utf-8", timeout=30)
    output = child.read()
    child.close()
    assert child.exitstatus == 2 and ("\x1b[31m" in output) is coloured


def test_a_whole_command_in_a_process_of_its_own(model):
    arguments = [*RUN, "generate", model, "-m", "4"]
    done = subprocess.run(arguments, input="Hello", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith("\n") and "answer 4 tokens" in done.stderr


def test_a_warning_is_its_message_alone(mlxlm, tmp_path):
    folder = tiny.checkpoint(tmp_path / "m", a_key_of_nobody=7)
    done = mlxlm("generate", folder, "Hi", "-m", 2, "-q")
    assert done.status == 0 and done.err.startswith("warning: ") and "a_key_of_nobody" in done.err
    assert done.err.count("\n") == 1
