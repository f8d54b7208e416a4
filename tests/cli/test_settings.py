"""Options from the file of defaults and the environment, in their order; and completion, as the shells ask for it."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def settings(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    monkeypatch.setenv("MLXLM_CONFIG", str(path))

    def write(text: str):
        path.write_text(text, encoding="utf-8")
        return path

    return write


def tokens(outcome) -> int:
    import json

    assert outcome.status == 0, outcome.err
    return len(json.loads(outcome.out)["token_ids"])


def test_command_line_over_environment_over_file_over_default(mlxlm, model, settings, monkeypatch):
    settings(f'[generate]\nmax-tokens = 3\nmodel = "{model}"\n')
    asked = ("generate", "--prompt", "Hi", "--json", "--logit-bias", "2=-inf")
    assert tokens(mlxlm(*asked)) == 3
    monkeypatch.setenv("MLXLM_GENERATE_MAX_TOKENS", "4")
    assert tokens(mlxlm(*asked)) == 4
    assert tokens(mlxlm(*asked, "--max-tokens", "5")) == 5
    settings("")
    monkeypatch.delenv("MLXLM_GENERATE_MAX_TOKENS")
    assert tokens(mlxlm(*asked, "--model", model, "--max-kv-size", "512")) == 256


@pytest.mark.parametrize(("text", "said"), [
    ("[generate]\nmax-token = 3\n", "Did you mean 'max-tokens'"),
    ("[genrate]\nmax-tokens = 3\n", "Did you mean 'generate'"),
    ("[generate]\nmax-tokens = \"many\"\n", "not a valid integer"),
    ("[generate]\ndtype = \"int3\"\n", "float32"),
    ("generate = 3\n", "not a table"),
    ("[generate\n", "isn't TOML"),
])
def test_a_mistake_in_the_file_is_named(mlxlm, model, settings, text, said):
    path = settings(text)
    outcome = mlxlm("generate", model, "Hi")
    assert outcome.status == 1 and said in outcome.err and str(path) in outcome.err


def test_a_mistake_for_one_command_leaves_the_others_alone(mlxlm, settings):
    settings("[generate]\nmax-token = 3\n")
    assert mlxlm("name", "Qwen3-4B").status == 0


def test_a_named_file_must_be_there(mlxlm, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXLM_CONFIG", str(tmp_path / "none.toml"))
    assert "can't be read" in mlxlm("name", "Qwen3-4B").err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(mlxlm, shell):
    outcome = mlxlm("completion", shell)
    assert outcome.status == 0 and "_MLXLM_COMPLETE" in outcome.out


@pytest.mark.parametrize(("words", "offered"), [
    ("mlxlm gen", "generate"), ("mlxlm generate smol", "smolLM2_135M"), ("mlxlm generate --max-t", "--max-tokens")])
def test_what_a_shell_is_offered(words, offered):
    environment = {**os.environ, "_MLXLM_COMPLETE": "bash_complete", "COMP_WORDS": words,
                   "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([sys.executable, "-m", "mlxlm"], env=environment, text=True, capture_output=True, check=False)
    assert offered in done.stdout, (done.stdout, done.stderr)
