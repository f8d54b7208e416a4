"""`mlxlm chat`: history through the template, commands, and the keys of a real terminal."""

from __future__ import annotations

import sys

import pytest

import mlxlm as package


def test_each_line_of_a_pipe_is_a_turn_and_the_history_is_kept(mlxlm, model):
    done = mlxlm("chat", model, "-m", 6, stdin="Hello\n\nAnd now?\n")
    loaded, processor = package.load(model)
    messages, answers = [], []
    for question in ("Hello", "And now?"):
        messages.append({"role": "user", "content": question})
        answers.append(package.generate(loaded, processor, messages, max_tokens=6))
        messages.append({"role": "assistant", "content": answers[-1]})
    assert done.status == 0 and done.out == "".join(answer + "\n" for answer in answers) and done.err == ""


def test_clear_forgets_and_exit_leaves(mlxlm, model):
    once = mlxlm("chat", model, "-m", 6, stdin="Hello\n").out
    assert mlxlm("chat", model, "-m", 6, stdin="Hello\n/clear\nHello\n/exit\nHello\n").out == once * 2


def test_a_model_without_a_template_is_refused(mlxlm, tmp_path):
    import tiny

    done = mlxlm("chat", tiny.checkpoint(tmp_path / "m", chat_template=None), stdin="Hi\n")
    assert done.status == 2 and "no chat template" in done.err


@pytest.fixture
def terminal(model):
    pexpect = pytest.importorskip("pexpect")
    code = "from mlxlm.cli import main; main()"
    child = pexpect.spawn(sys.executable, ["-c", code, "chat", model, "-m", "450", "--stats"], encoding="utf-8",
                          codec_errors="replace", timeout=30)
    yield child
    child.close(force=True)


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(terminal):
    terminal.expect("Ctrl-C stops an answer")
    terminal.expect("> ")
    terminal.sendline("/help")
    terminal.expect("Ctrl-D leaves")
    terminal.expect("> ")
    terminal.sendcontrol("c")
    terminal.expect("Ctrl-D leaves")
    terminal.sendline("Hi")
    terminal.expect("answer [0-9]+ tokens")
    terminal.expect("> ")
    terminal.sendeof()
    terminal.expect("\r\n")
    terminal.wait()
    assert terminal.exitstatus == 0
