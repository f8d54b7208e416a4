"""pull, list and rm against a small hub of our own: what is fetched, found, found damaged, and taken away."""

import json

import pytest
from click.testing import CliRunner

from mlxlm.cli.list import command as list_command
from mlxlm.cli.pull import command as pull_command
from mlxlm.cli.rm import command as rm_command
from mlxlm.errors import SourceError, UsageError
from mlxlm.sources import store


def run(command, *args, **kwargs):
    return CliRunner().invoke(command, list(args), catch_exceptions=False, **kwargs)


def test_pull_list_rm(server):
    pulled = run(pull_command, "owner/model", "--json")
    assert json.loads(pulled.output)["verified"] is True
    assert run(pull_command, "owner/ggufs:Q4_0").exit_code == 0
    listed = {row["name"]: row for row in json.loads(run(list_command, "--json").output)}
    assert set(listed) == {"owner/model", "owner/ggufs"}
    assert listed["owner/model"]["model_type"] == "llama" and listed["owner/model"]["whole"]
    assert 5000 < listed["owner/model"]["size"] < 8000  # the client's own notes are counted: they go with the rest
    assert (listed["owner/ggufs"]["model_type"], listed["owner/ggufs"]["quantization"]) == ("gguf", "Q4_0")
    assert "owner/ggufs" in run(list_command, "gg").output and "owner/model" not in run(list_command, "gg").output

    assert "Kept" in run(rm_command, "owner/model", input="n\n").output and len(store.stored()) == 2
    assert "freed" in run(rm_command, "owner/model", "--yes").output
    with pytest.raises(UsageError, match="--yes"):
        run(rm_command, "owner/ggufs", "--json")
    assert json.loads(run(rm_command, "owner/ggufs", "--json", "--yes").output)[0]["name"] == "owner/ggufs"
    assert store.stored() == []
    assert not [path for path in server.cache.iterdir() if path.name.startswith(("models--", ".removed"))]


def test_damage_is_found_by_the_checksum(server):
    run(pull_command, "owner/model")
    [model] = store.stored()
    blob = next(path for path in (model.folder / "blobs").iterdir() if path.stat().st_size == 5000)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    small = next(path for path in (model.folder / "blobs").iterdir() if path.read_bytes() == b"{{ messages }}")
    small.write_bytes(b"{{ massages }}")
    assert sorted(store.verify(model)) == ["chat_template.jinja", "model.safetensors"]
    with pytest.raises(SourceError, match=r"model\.safetensors.*Run `mlxlm rm owner/model`"):
        run(pull_command, "owner/model")
    assert run(pull_command, "owner/model", "--no-verify").exit_code == 0


def test_what_is_unfinished_is_told(server):
    run(pull_command, "owner/sharded")
    [model] = store.stored()
    next(model.folder.rglob("model-00002-of-00002.safetensors")).unlink()
    [model] = store.stored()
    assert not model.whole
    assert "incomplete" in run(list_command).output


def test_a_name_that_is_not_here(server):
    run(pull_command, "owner/model")
    with pytest.raises(UsageError, match="Did you mean owner/model"):
        run(rm_command, "owner/modle")
    with pytest.raises(SourceError, match="on this disk already"):
        run(pull_command, str(server.cache))
    assert [model.name for model in store.stored()] == ["owner/model"]


def test_an_interrupted_removal_is_finished_by_the_next(server):
    run(pull_command, "owner/model")
    run(pull_command, "owner/ggufs:Q4_0")
    left = server.cache / ".removed-0"
    (left / "blobs").mkdir(parents=True)
    assert {model.name for model in store.stored()} == {"owner/model", "owner/ggufs"}
    store.remove(store.find("owner/model"))
    assert not left.exists() and [model.name for model in store.stored()] == ["owner/ggufs"]


def test_an_empty_store(server):
    assert "No model is downloaded" in run(list_command).output
    assert json.loads(run(list_command, "--json").output) == []
