"""`mlxlm verify`: every step of it, with a model that knows the answers and with those that don't."""

import importlib
import json

import mlx.core as mx
import pytest
import tiny
from click.testing import CliRunner
from small_hub import REPOS

from mlxlm import verify
from mlxlm.cli.verify import command
from mlxlm.errors import UsageError
from mlxlm.sources import store

REPO = "openai/gpt-oss-20b"
TEMPLATE = tiny.TEMPLATE + "{% if tools %}{# <tool_call> #}{% endif %}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Knowing:
    """Says what the text before it asks for, byte by byte, with the tiny tokenizer; its state is the tokens so far."""

    def __init__(self, tokenizer, answers: dict[str, str]):
        self.tokenizer, self.answers = tokenizer, answers
        self.config = {"vocab_size": tokenizer.vocab_size}
        self.layers = []

    def make_cache(self, max_kv_size=None):
        return Seen()

    def __call__(self, tokens, cache):
        cache.ids += tokens[0].tolist()
        text = self.tokenizer.decode(cache.ids)
        asked, _, said = text.rpartition("assistant\n")
        answer = next((a for key, a in self.answers.items() if key in asked), "")
        rest = self.tokenizer.encode(answer[len(said):], add_special_tokens=False)
        row = mx.where(mx.arange(self.config["vocab_size"]) == (rest[0] if rest else 2), 5.0, 0.0)
        return mx.broadcast_to(row, (1, tokens.shape[1], row.shape[0]))


class Seen(list):
    def __init__(self):
        super().__init__()
        self.ids = []

    arrays = ()
    offset = property(lambda self: len(self.ids))


@pytest.fixture
def hub(server, monkeypatch, tmp_path_factory):
    """A hub with a tiny llama under an official name."""
    folder = tiny.checkpoint(tmp_path_factory.mktemp("official") / "m", chat_template=TEMPLATE)
    monkeypatch.setitem(REPOS, REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    return server


def knowing(monkeypatch, **changes):
    answers = {"weather": CALL, "capital": "Paris.", **changes}
    module = importlib.import_module("mlxlm.load")  # `mlxlm.load` itself is the function
    real = module.load

    def load(source):
        _, processor = real(source)
        return Knowing(processor, answers), processor

    monkeypatch.setattr(module, "load", load)


def test_a_good_model_passes_and_is_removed(hub, monkeypatch):
    knowing(monkeypatch)
    report = verify.verify(REPO)
    assert report.checks == dict.fromkeys(("pull", "load", "answer", "tool call", "remove"))
    assert report.good and report.generation_tps and store.stored() == []


@pytest.mark.parametrize(("changes", "step", "said"), [
    ({"capital": "London."}, "answer", "was answered 'London.'"),
    ({"capital": "Paris " * 999}, "answer", "didn't end by itself"),
    ({"weather": "It rains."}, "tool call", "no tool was called"),
    ({"weather": CALL.replace("Paris", "Rome")}, "tool call", "the wrong call"),
])
def test_a_wrong_answer_is_told_and_the_model_removed(hub, monkeypatch, changes, step, said):
    knowing(monkeypatch, **changes)
    report = verify.verify(REPO)
    assert said in report.checks[step] and not report.good
    assert report.checks["remove"] is None and store.stored() == []


def test_what_was_here_before_stays(hub, monkeypatch):
    from mlxlm.sources import locate

    locate(REPO, progress=False)
    knowing(monkeypatch)
    assert verify.verify(REPO).good
    assert [model.name for model in store.stored()] == [REPO]
    assert verify.verify(REPO, keep=True).good


def test_a_random_model_fails_the_official_way_and_passes_the_tiny_one(hub, model):
    report = verify.verify(REPO)
    assert "was answered" in report.checks["answer"] or "didn't end" in report.checks["answer"]
    report = verify.verify_tiny(model)
    assert report.checks == dict.fromkeys(("load", "answer", "repeat", "stop")), report


def test_a_damaged_checkpoint_is_one_row(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    report = verify.verify_tiny(tmp_path)
    assert list(report.checks) == ["load"] and report.checks["load"] and not report.good


def test_only_official_repositories():
    with pytest.raises(UsageError, match="only the makers' own"):
        verify.official("someone/gpt-oss-20b")
    with pytest.raises(UsageError, match="mlx-whisper"):
        verify.official("openai/whisper-base")


def test_every_reference_is_of_a_family_that_is_known():
    from mlxlm.names import parse

    for repo, task in verify.references().items():
        assert parse(repo).kind in ("llm", "vlm"), repo
        assert (parse(repo).kind == "vlm") == (task == "vision") or "gemma-3" in repo, repo


def test_the_command_reports_each_model_apart(model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    result = CliRunner().invoke(command, ["--tiny", model, str(broken), "--json"], standalone_mode=False)
    assert result.return_value == 1
    first, second = json.loads(result.output)
    assert first["good"] and first["generation_tps"] > 0
    assert not second["good"] and "config.json" in second["checks"]["load"]


def test_the_table(model, tmp_path):
    path = tmp_path / "report.md"
    result = CliRunner().invoke(command, ["--tiny", model, "--markdown", str(path)], standalone_mode=False)
    assert result.return_value == 0
    lines = path.read_text().splitlines()
    assert lines[0].startswith("| model") and set(lines[1]) == {"|", "-"} and "good: load, answer" in lines[2]
    assert "openvla" in CliRunner().invoke(command, ["--list"]).output
