"""Hub ids, against a small hub of our own on this machine: what is fetched, what is reused, and every refusal."""

import threading

import pytest
from small_hub import FILES, GGUFS, SHA, SHARDED

from mlxlm.configuration import ModelConfiguration
from mlxlm.errors import SourceError
from mlxlm.sources import hub, locate


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_a_model_needs_is_fetched_and_nothing_else(server):
    found = locate("owner/model", progress=False)
    assert names(found) == ["README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert (found / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_the_second_time_asks_once_and_downloads_nothing(server):
    first = locate("owner/model", progress=False)
    server.asked.clear()
    assert locate("owner/model", progress=False) == first
    assert server.asked == ["/api/models/owner/model/revision/main"]
    server.asked.clear()
    assert locate("owner/model", revision=SHA, progress=False) == first and server.asked == []


def test_offline_a_whole_snapshot_is_used(server, monkeypatch):
    first = locate("owner/model", progress=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.asked.clear()
    assert locate("owner/model") == first and server.asked == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert locate("owner/model") == first


def test_offline_without_a_snapshot(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match=r"isn't in the cache, and offline mode is on \(HF_HUB_OFFLINE\)"):
        locate("owner/model")
    assert server.asked == []


def test_an_interrupted_download_is_not_taken_for_a_model_and_goes_on(server, monkeypatch):
    server.broken = {"model-00002-of-00002.safetensors"}
    with pytest.raises(SourceError):
        locate("owner/sharded", progress=False)
    assert not hub.is_cached("owner/sharded", "main")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="only a part of it is here"):
        locate("owner/sharded")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server.broken = set()
    server.asked.clear()
    found = locate("owner/sharded", progress=False)
    assert names(found) == sorted(SHARDED)
    assert not [path for path in server.asked if path.endswith("config.json")]  # what was here stayed


@pytest.mark.parametrize("missing", ["model-00002-of-00002.safetensors", "model.safetensors.index.json", "config.json"])
def test_a_snapshot_with_a_hole_is_not_whole(server, missing):
    found = locate("owner/sharded", progress=False)
    assert hub.is_cached("owner/sharded", "main")
    (found / missing).unlink()
    assert hub.is_cached("owner/sharded", "main") is (missing == "model.safetensors.index.json")


def test_one_gguf_is_picked_and_several_are_listed(server):
    with pytest.raises(SourceError, match=r"several GGUF models.*m-Q4_0\.gguf, m-Q8_0\.gguf.*owner/ggufs:m-Q4_0\.gguf"):
        locate("owner/ggufs", progress=False)
    for name in ("owner/ggufs:m-Q8_0.gguf", "owner/ggufs/m-Q8_0.gguf", "owner/ggufs:q8_0"):
        found = locate(name, progress=False)
        assert found.name == "m-Q8_0.gguf" and found.read_bytes() == GGUFS["m-Q8_0.gguf"]
    assert names(found.parent) == ["README.md", "m-Q8_0.gguf"]
    assert locate("owner/one-gguf", progress=False).name == "x.gguf"
    with pytest.raises(SourceError, match=r"no GGUF file 'm-Q4_1\.gguf'.*Did you mean m-Q4_0\.gguf"):
        locate("owner/ggufs:m-Q4_1.gguf", progress=False)
    with pytest.raises(SourceError, match="no GGUF files"):
        locate("owner/model:Q4_K_M", progress=False)


def test_a_split_gguf_comes_whole(server):
    found = locate("owner/split", progress=False)
    assert found.name == "m-00001-of-00002.gguf" and len(names(found.parent)) == 2
    assert hub.is_cached("owner/split", "main")
    (found.parent / "m-00002-of-00002.gguf").unlink()
    assert not hub.is_cached("owner/split", "main")


def test_a_tokenizer_comes_without_weights(server):
    found = locate("owner/model", progress=False, tokenizer_only=True)
    assert names(found) == ["README.md", "chat_template.jinja", "config.json", "tokenizer.json"]
    assert not hub.is_cached("owner/model", "main")


@pytest.mark.parametrize("name, word", [
    ("owner/gated", "gated.*hf auth login"),
    ("owner/missing", "no such model on the hub, or it is private.*HF_TOKEN"),
    ("mlx-community/Qwen3-4b-4bit", "no such model.*Did you mean mlx-community/Qwen3-4B-4bit"),
    ("owner/forbidden", "refuses access"),
    ("owner/pickles", r"no weights that can be read.*\.bin files, which can hold code"),
    ("owner/empty", "no weights"),
    ("owner/busy", r"the hub has no answer \(HTTP 503\)"),
    ("owner/limited", r"HTTP 429"),
])
def test_each_refusal_is_explained(server, name, word):
    with pytest.raises(SourceError, match=word):
        locate(name, progress=False)


def test_a_revision_that_is_not_there(server):
    with pytest.raises(SourceError, match="no revision 'v9'"):
        locate("owner/model", revision="v9", progress=False)


def test_a_gated_model_is_never_taken_from_a_mirror(server):
    with pytest.raises(SourceError, match="gated"):
        locate(ModelConfiguration(id="owner/gated", mirrors=("pypi:not-there",)), progress=False)


def test_a_hub_that_is_silent_is_given_up_in_seconds(server, monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    server.speaks.clear()  # a patient caller would get its answer in the end, and no error
    try:
        with pytest.raises(SourceError, match="doesn't answer"):
            locate("owner/model", progress=False)
    finally:
        server.speaks.set()


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    released = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: released.wait(20) and [])
    try:
        with pytest.raises(SourceError, match="doesn't answer"):
            locate("owner/model", progress=False)
    finally:
        released.set()


def test_a_disk_without_room_is_told_before_the_download(server, monkeypatch):
    usage = hub.shutil.disk_usage("/")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(SourceError, match=r"too full.*HF_HOME"):
        locate("owner/model", progress=False)
    assert not [path for path in server.asked if "resolve" in path]


def test_a_cache_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", "/proc/nothing"):
        monkeypatch.setenv("HF_HUB_CACHE", str(place))
        with pytest.raises(SourceError):
            locate("owner/model", progress=False)


def test_progress_is_shown_only_when_asked_for(server, capfd):
    locate("owner/model", progress=False)
    assert capfd.readouterr() == ("", "")
    locate("owner/sharded", progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "%" in err
