"""Local sources: what a path may be, and what is said where it isn't a model."""

import json
import os
import sys
import traceback

import pytest

from mlxlm.configuration import ModelConfiguration
from mlxlm.errors import MLXLMError, SourceError, UsageError
from mlxlm.registry import LLMRegistry
from mlxlm.sources import configured, hub, locate


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "owner" / "Tiny-Model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def gguf(path, names):
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_bytes(b"GGUF" + bytes(60))
    return path


def test_a_folder_is_its_own_place(model, monkeypatch):
    assert locate(model) == locate(str(model)) == locate(ModelConfiguration(directory=model)) == model
    monkeypatch.chdir(model.parent)
    assert locate("Tiny-Model").resolve() == model and locate("./Tiny-Model").resolve() == model
    monkeypatch.setenv("HOME", str(model.parent))
    assert locate("~/Tiny-Model") == model


def test_a_gguf_file_and_a_folder_with_one(tmp_path):
    folder = gguf(tmp_path / "a", ["m.Q4_1.gguf", "mmproj-m.gguf"])
    assert locate(folder / "m.Q4_1.gguf") == locate(folder) == folder / "m.Q4_1.gguf"


def test_a_split_gguf_is_known_by_any_of_its_parts(tmp_path):
    names = [f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    folder = gguf(tmp_path / "a", names)
    assert locate(folder) == locate(folder / names[1]) == locate(folder / names[0]) == folder / names[0]
    (folder / names[2]).unlink()
    with pytest.raises(SourceError, match=r"1 of 3 parts are missing.*m-00003-of-00003\.gguf"):
        locate(folder / names[0])


def test_several_ggufs_are_listed(tmp_path):
    folder = gguf(tmp_path / "a", ["m.Q4_0.gguf", "m.Q8_0.gguf"])
    with pytest.raises(SourceError, match=r"several.*m\.Q4_0\.gguf, m\.Q8_0\.gguf.*Name one"):
        locate(folder)


def test_a_missing_path_names_what_is_close(model):
    with pytest.raises(SourceError, match=r"no such file or folder.*Did you mean.*Tiny-Model"):
        locate(str(model.parent / "TinyModel"))
    with pytest.raises(SourceError, match="doesn't exist either"):
        locate("/no/such/place/at/all")
    for name in ("./x", "../x", "~/nothing-here", "model.gguf", "weights.safetensors", "a b", "a/b/c/d", "x\\y",
                 "a" * 5000):
        with pytest.raises(SourceError, match="no such file or folder"):
            locate(name)


@pytest.mark.parametrize("files, word", [
    ([], "empty"),
    (["readme.txt"], "no config.json"),
    (["model.safetensors", "tokenizer.json"], "no config.json.*fetch the model's config.json"),
    (["inner/config.json"], "Did you mean.*inner"),
])
def test_a_folder_that_is_no_model(tmp_path, files, word):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(SourceError, match=word):
        locate(tmp_path)


def test_a_file_that_is_no_model(model, tmp_path):
    with pytest.raises(SourceError, match="Give the folder"):
        locate(model / "config.json")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"expected a folder, or a \.gguf file"):
        locate(tmp_path / "x.bin")
    (tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(SourceError, match="empty"):
        locate(tmp_path / "x.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(SourceError, match="no regular file"):
        locate(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    with pytest.raises(SourceError):
        locate(tmp_path / "loop.gguf")


def as_nobody(work):
    """What ``work()`` returns in a child process that has no more rights than a stranger."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            answer = work()
        except MLXLMError as error:
            answer = f"{type(error).__name__}: {error}"
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, answer.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("locked", ["folder", "config", "parent", "file"])
def test_without_permission_it_says_so(tmp_path_factory, locked):
    base = tmp_path_factory.mktemp("open")
    for part in [base, *base.parents][:3]:
        part.chmod(0o755)
    folder = base / "owner" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "m.gguf").write_bytes(b"GGUF")
    target = {"folder": folder, "config": folder / "config.json", "parent": folder.parent, "file": folder / "m.gguf"}
    target[locked].chmod(0)
    asked = folder / "m.gguf" if locked == "file" else folder
    try:
        assert as_nobody(lambda: str(locate(str(asked)))).startswith("SourceError:")
        assert "permission" in as_nobody(lambda: str(locate(str(asked))))
    finally:
        target[locked].chmod(0o755)


@pytest.mark.parametrize("bad", [None, 3, "", "  ", ["a"], b"x"])
def test_what_is_no_name_is_a_usage_error(bad):
    with pytest.raises(UsageError):
        locate(bad)


def test_presets_are_known_by_name_and_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = LLMRegistry.llama3_2_3B_4bit
    assert configured("llama3_2_3B_4bit") == configured(preset.id) == preset == configured(preset)
    assert configured("qwen2VL2BInstruct4Bit").id == "mlx-community/Qwen2-VL-2B-Instruct-4bit"
    assert configured(preset.id, revision="v2").revision == "v2"
    assert configured(preset, default_prompt="Hi").extra_eos_tokens == preset.extra_eos_tokens
    assert configured("owner/new") == ModelConfiguration(id="owner/new")
    assert configured("pypi:some-wheel").id == "pypi:some-wheel"


def test_what_is_on_the_disk_comes_before_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smolLM2_135M").mkdir()
    (tmp_path / "smolLM2_135M" / "config.json").write_text("{}")
    assert configured("smolLM2_135M").directory is not None


@pytest.mark.parametrize("name, good", [
    ("owner/repo", True), ("gpt2", True), ("owner/repo:file.gguf", True), ("owner/repo:Q4_K_M", True),
    ("owner/repo/sub/file.gguf", True), ("owner/repo-1.5_x", True), ("owner/", False), ("/repo", False),
    ("a/b/c", False), ("owner/re po", False), ("../repo", False), ("owner/repo:", False), ("owner/..", False),
    ("a:b:c", False), ("-x/y", False), ("owner/repo:/etc/x.gguf", False), ("", False),
])
def test_the_form_of_a_hub_id(name, good):
    assert hub.is_id(name) is good


def test_a_tokenizers_folder_needs_no_config(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert locate(tmp_path, tokenizer_only=True) == tmp_path
