"""`mlxlm chat` from a pipe, where a line is a turn; and at a terminal: keys, history, commands, tools."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

import mlxlm as package

pytest.importorskip("pexpect")
from terminal import Chat

pytestmark = pytest.mark.slow  # left to `make test`: `make check` is for every edit

TINY = ["--logit-bias", "2=-inf"]
"""The tiny model never ends an answer by itself, so that its length is known."""


def answers(model: str, *questions: str, most: int = 6, **more) -> list[str]:
    """What the model answers in a conversation, by the library."""
    loaded, processor = package.load(model)
    messages, out = [], []
    for question in questions:
        messages.append({"role": "user", "content": question})
        out.append(package.generate(loaded, processor, messages, max_tokens=most, **more))
        messages.append({"role": "assistant", "content": out[-1]})
    return out


def test_each_line_of_a_pipe_is_a_turn_and_the_history_is_kept(mlxlm, model):
    done = mlxlm("chat", model, "-m", 6, stdin="Hello\n\nAnd now?\n")
    assert done.status == 0 and done.err == ""
    assert done.out == "".join(answer + "\n" for answer in answers(model, "Hello", "And now?"))


def test_clear_forgets_and_exit_leaves(mlxlm, model):
    once = mlxlm("chat", model, "-m", 6, stdin="Hello\n").out
    assert mlxlm("chat", model, "-m", 6, stdin="Hello\n/clear\nHello\n/exit\nHello\n").out == once * 2


def test_commands_from_a_pipe(mlxlm, model, tmp_path):
    told = mlxlm("chat", model, "-m", 6, stdin=f"Hello\n/retry\n/save {tmp_path}/a.json\n/undo\n/system Be brief.\n"
                 f"Hello\n/export {tmp_path}/a.md\n/load {tmp_path}/a.json\n/export {tmp_path}/b.json\n/stats\n")
    first = answers(model, "Hello")[0]
    assert told.status == 0 and told.out.startswith(f"{first}\n{first}\n") and "context" in told.err
    saved = json.loads((tmp_path / "a.json").read_text())
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": first}]
    assert saved["messages"] == talk and json.loads((tmp_path / "b.json").read_text()) == talk
    assert (tmp_path / "a.md").read_text().startswith("## system\n\nBe brief.\n\n## user\n\nHello\n\n## assistant")


def test_a_slash_that_is_no_command_is_text_from_a_pipe(mlxlm, model):
    assert mlxlm("chat", model, "-m", 6, stdin="/etc/hosts\n").out == answers(model, "/etc/hosts")[0] + "\n"


def test_another_model_goes_on_with_the_conversation(mlxlm, model, tmp_path):
    import tiny

    other = str(tiny.checkpoint(tmp_path / "other", seed=5))
    done = mlxlm("chat", model, "-m", 6, *TINY, stdin=f"Hello\n/model {other}\nAnd now?\n/save {tmp_path}/a.json\n")
    said = json.loads((tmp_path / "a.json").read_text())["messages"]
    loaded, processor = package.load(other)
    never = {2: -float("inf")}
    assert done.status == 0 and said[1]["content"] == answers(model, "Hello", logit_bias=never)[0]
    assert said[3]["content"] == package.generate(loaded, processor, said[:3], max_tokens=6, logit_bias=never)


def test_settings_count_from_the_next_answer_on(mlxlm, model):
    from mlxlm.cli.repl_commands import SETTABLE
    from mlxlm.generate import GenerateParameters

    lines = "/set max_tokens 2\nHello\n/set max_tokens default\n/set temperature=0\n"
    done = mlxlm("chat", model, "-m", 6, stdin=lines)
    assert done.out == answers(model, "Hello", most=2)[0] + "\n"
    assert "  max_tokens  4096" in done.err and "  temperature  0" in done.err
    assert set(SETTABLE) <= set(GenerateParameters.__dataclass_fields__)


def test_media_go_with_the_next_question(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "chat"))
    from worlds import Actor, make_tokenizer

    from mlxlm.cli.repl import Repl
    from mlxlm.cli.repl_screen import Plain

    (tmp_path / "a cat.png").write_bytes(b"")
    tokenizer, asked = make_tokenizer(), []
    tokenizer.markers = {"image": "<image>"}
    repl = Repl("actor", Actor(tokenizer, lambda prompt: "Yes."), tokenizer, screen=Plain(), load=lambda name: None)
    monkeypatch.setattr(repl.session, "stream", lambda text, **more: asked.append((text, more)) or (_ for _ in ()))
    for text in (f"/image '{tmp_path}/a cat.png'", "/image https://example.com/b.png", "What is it?", "And now?"):
        repl.take(text)
    images = [f"{tmp_path}/a cat.png", "https://example.com/b.png"]
    assert [(text, more["images"], more["videos"]) for text, more in asked] == \
        [("What is it?", images, None), ("And now?", None, None)]
    with pytest.raises(package.MLXLMError, match="no such file"):
        repl.take("/image none.png")
    with pytest.raises(package.MLXLMError, match="takes no videos"):
        repl.take("/video clip.mp4")


@pytest.mark.parametrize(("line", "said"), [
    ("/image cat.png", "this model takes no images"), ("/set temperature -1", "expected a number of 0 or more"),
    ("/set temprature 1", "Did you mean temperature?"), ("/think on", "no reasoning to turn on"),
    ("/load none.json", "can't be read"), ("/undo", "hasn't said anything"), ("/edit", "nothing has been asked"),
    ("/tools add nothing", "MODULE:FUNCTION"), ("/model ./none", "none"), ("/save", "which file?")])
def test_a_mistake_from_a_pipe_ends_it(mlxlm, model, line, said):
    done = mlxlm("chat", model, "-m", 6, stdin=f"{line}\nHello\n")
    assert done.status in (1, 2) and done.out == "" and done.err.startswith("error: ") and said in done.err


def test_a_model_without_a_template_is_refused(mlxlm, tmp_path):
    import tiny

    done = mlxlm("chat", tiny.checkpoint(tmp_path / "m", chat_template=None), stdin="Hi\n")
    assert done.status == 2 and "no chat template" in done.err


# At a terminal


@pytest.fixture
def chat(model, tmp_path):
    made = []

    def start(*more: str, **how) -> Chat:
        made.append(Chat(tmp_path, "chat", model, "-m", "6", *TINY, *more, **how))
        return made[-1]

    yield start
    for one in made:
        one.child.close(force=True)


def test_commands_at_a_terminal(chat, tmp_path):
    talk = chat()
    assert "/export FILE" in talk.send("/help")
    talk.send("Hello")
    talk.send(f"/save {tmp_path}/one.json")
    first = json.loads((tmp_path / "one.json").read_text())["messages"]
    assert [m["role"] for m in first] == ["user", "assistant"]
    assert "context" in talk.send("/stats") and "taken back: Hello" in talk.send("/undo")
    assert "hasn't said anything" in talk.send("/retry")
    assert "2 messages" in talk.send(f"/load {tmp_path}/one.json")
    talk.send("/retry")
    talk.send("/edit Goodbye")
    talk.send(f"/save {tmp_path}/two.json")
    second = json.loads((tmp_path / "two.json").read_text())["messages"]
    assert [m["role"] for m in second] == ["user", "assistant"] and second[0]["content"] == "Goodbye"
    assert "this model takes no images" in talk.send("/image cat.png")
    assert "Did you mean /system" in talk.send("/sytem x")
    assert "  max_tokens  3" in talk.send("/set max_tokens 3") and "3" in talk.send("/set")
    assert "cut off at the most tokens" in talk.send("Hello")
    talk.leave()


def test_edit_offers_the_last_question(chat, tmp_path):
    talk = chat()
    talk.send("Hello")
    talk.send("/edit")
    talk.send(" there")
    talk.send(f"/save {tmp_path}/one.json")
    assert json.loads((tmp_path / "one.json").read_text())["messages"][0]["content"] == "Hello there"
    talk.leave()


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(tmp_path):
    talk = Chat(tmp_path, code="import acted; acted.main(pause=0.01)")
    talk.child.send("count\r")
    talk.child.expect_exact(" 7 ")
    talk.child.sendcontrol("c")
    assert "stopped" in talk.ready()
    talk.send(f"/save {tmp_path}/one.json")
    said = json.loads((tmp_path / "one.json").read_text())["messages"][1]["content"]
    whole = " ".join(map(str, range(1000)))
    assert whole.startswith(said) and " 7 " in said and len(said) < len(whole)
    talk.child.send("not this")
    talk.child.sendcontrol("c")  # clears what is typed
    talk.ready()
    talk.leave()


def test_thoughts_are_shown_or_folded(tmp_path):
    talk = Chat(tmp_path, code="import acted; acted.main(thinks=True)")
    shown = talk.send("think")
    assert "Let me see." in shown and "It is so." in shown
    talk.send("/think hide")
    folded = talk.send("think")
    assert "Let me see." not in folded and "thought for" in folded and "It is so." in folded
    assert "Let me see." in talk.send("/think show")
    assert "reasoning is off" in talk.send("/think off")
    talk.leave()


def test_lines_go_on_behind_a_backslash_and_pasted_ones_are_one_question(chat, tmp_path):
    talk = chat()
    talk.child.send("one\\\r")
    talk.send("two")
    talk.child.send("\x1b[200~three\nfour\n\x1b[201~")
    talk.send("five")
    talk.send(f"/save {tmp_path}/one.json")
    messages = json.loads((tmp_path / "one.json").read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["one\ntwo", "three\nfour\nfive"]
    talk.leave()


def test_what_was_typed_is_there_the_next_time(chat, tmp_path):
    talk = chat()
    talk.send("remember this")
    talk.leave()
    file = tmp_path / "mlxlm" / "chat_history"
    assert "remember this" in file.read_text() and file.stat().st_mode & 0o077 == 0
    talk = chat()
    talk.child.send("\x1b[A")
    talk.send("!")
    talk.send(f"/save {tmp_path}/one.json")
    assert json.loads((tmp_path / "one.json").read_text())["messages"][0]["content"] == "remember this!"
    talk.leave()


def test_completion(chat, tmp_path):
    talk = chat()
    talk.child.send("/loa")
    talk.child.expect("a conversation that was saved")  # the menu says what a command does
    talk.child.send("\x1b")
    talk.child.sendcontrol("c")
    talk.ready()
    talk.leave()


def test_what_is_offered(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from mlxlm.cli.repl_input import _completer

    (tmp_path / "kept.json").write_text("")
    monkeypatch.chdir(tmp_path)
    completer = _completer(SimpleNamespace(tools={"add": len}))

    def offered(text: str) -> list[str]:
        found = completer.get_completions(Document(text), CompleteEvent())
        return [text[:len(text) + one.start_position] + one.text for one in found]

    assert offered("/e") == ["/edit", "/export", "/exit"] and offered("hello") == offered("say /e") == []
    assert offered("/load ke") == ["/load kept.json"] and offered("/think h") == ["/think hide"]
    assert "/model smolLM2_135M" in offered("/model smol") and offered("/set temp") == ["/set temperature"]
    assert offered("/tools remove a") == ["/tools remove add"] and offered("/undo x") == []


def test_a_call_is_run_once_the_user_says_yes(tmp_path):
    talk = Chat(tmp_path, code="import acted; acted.main()")
    for key, said in (("n", "You said no."), ("y", "It is sunny.")):
        talk.child.send("Rain?\r")
        talk.child.expect_exact("[a]lways: ")
        asked = talk.plain(talk.child.before)
        assert "→ weather(city='Oslo')" in asked and "ASKED FOR" not in asked
        talk.child.send(key + "\r")
        rest = talk.ready()
        assert said in rest and ("ASKED FOR Oslo" in rest) == (key == "y")
        talk.send("/clear")
    talk.leave()


def test_tools_from_a_pipe_need_consent(mlxlm, model, tmp_path):
    (tmp_path / "abacus.py").write_text("def add(a: int, b: int) -> int:\n    'Adds.'\n    return a + b\n")
    done = mlxlm("chat", model, "-m", 2, "--tool", f"{tmp_path}/abacus.py:add", stdin="/tools\n/tools remove add\n")
    assert done.status == 0 and done.err.splitlines()[-2:] == ["  add  Adds.", "no tools"]
    wrong = mlxlm("chat", model, "--tool", f"{tmp_path}/abacus.py:sub", stdin="")
    assert wrong.status == 2 and "no such function" in wrong.err


def test_calls_without_a_keyboard_are_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "chat"))
    from worlds import Actor, make_tokenizer

    from mlxlm.cli.repl import Repl
    from mlxlm.cli.repl_screen import Plain

    ran = []

    def act(city: str) -> str:
        """Acts."""
        ran.append(city)
        return "done"

    tokenizer = make_tokenizer()
    call = '<tool_call>\n{"name": "act", "arguments": {"city": "Oslo"}}\n</tool_call>'
    actor = Actor(tokenizer, lambda prompt: "Well." if "yes-tools" in prompt or "done" in prompt else call)
    for ask, made in ((None, []), (lambda call: True, ["Oslo"])):
        repl = Repl("actor", actor, tokenizer, screen=Plain(), load=lambda name: (actor, tokenizer), tools={"act": act},
                    ask=ask, at_keyboard=False, max_tokens=100)
        repl.run(["Go"])
        assert ran == made and repl.session.messages[-1]["content"] == "Well."


def test_no_color_leaves_no_colour(model, tmp_path):
    talk = Chat(tmp_path, "chat", model, "-m", "6", *TINY, NO_COLOR="1")
    talk.child.send("Hello\r")
    talk.child.expect_exact("\x1b[?2004l")
    talk.child.expect_exact("\x1b[?2004h")
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", talk.child.before)
    talk.leave()


def test_answers_can_be_piped_on_from_a_keyboard(model, tmp_path):
    code = ("import os, subprocess, sys; sys.exit(subprocess.run([sys.executable, '-m', 'mlxlm', *sys.argv[1:]], "
            f"stdout=open({str(tmp_path / 'out')!r}, 'w')).returncode)")
    talk = Chat(tmp_path, "chat", model, "-m", "6", *TINY, code=code)
    talk.send("Hello")
    assert "taken back: Hello" in talk.send("/undo")
    talk.leave()
    answer = answers(model, "Hello", logit_bias={2: -float("inf")})[0]
    assert (tmp_path / "out").read_bytes().decode() == answer + "\n"


def test_a_terminal_that_knows_nothing(model, tmp_path):
    import pexpect

    environment = {**os.environ, "TERM": "dumb", "XDG_STATE_HOME": str(tmp_path)}
    child = pexpect.spawn(sys.executable, ["-m", "mlxlm", "chat", model, "-m", "6"], encoding="utf-8", timeout=30,
                          env=environment, codec_errors="replace")
    child.expect("> ")
    child.send("/help\r")
    child.expect("/export FILE")
    child.expect("> ")
    child.send("/exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_nothing_heavy_before_it_is_needed(model):
    import subprocess

    code = ("import sys; from mlxlm.cli.group import run; status = run(sys.argv[1:]); "
            "print(status, {'rich', 'prompt_toolkit', 'transformers', 'torch'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code, "chat", model, "-m", "2"], input="Hi\n", text=True,
                          capture_output=True, env=dict(os.environ), timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "0 set()"
