"""Memory: what is counted is what is taken, what is free is read rightly, and what doesn't fit is told in figures."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import mlx.core as mx
import pytest
import tiny
from parity import reference
from parity.cases import CASES

from mlxlm import memory
from mlxlm.errors import MemoryLimitError, UsageError
from mlxlm.generate import generate
from mlxlm.generate.engine import BatchEngine
from mlxlm.load import load, load_model

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=65536)


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder)


def machine(root: Path, meminfo: str = MEMINFO, groups: str = "", **files: str) -> Path:
    """A file system with what the kernel says of memory."""
    for name, text in {"proc/meminfo": meminfo, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_machines_memory(tmp_path):
    found = memory.host_room(machine(tmp_path))
    assert found.free == 8 * GIB - int(16777216 * memory.SPARE) * 1024 and "machine" in found.what


@pytest.mark.parametrize("groups, files, free", [
    ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "5\n",
                   "sys/fs/cgroup/a/memory.max": str(4 * GIB), "sys/fs/cgroup/a/memory.current": str(3 * GIB),
                   "sys/fs/cgroup/a/memory.stat": f"anon 7\ninactive_file {GIB}\n"}, 2 * GIB),
    ("5:cpu:/x\n4:memory:/g\n", {"sys/fs/cgroup/memory/g/memory.limit_in_bytes": str(2 * GIB),
                                 "sys/fs/cgroup/memory/g/memory.usage_in_bytes": str(GIB)}, GIB),
    ("4:memory:/g\n", {"sys/fs/cgroup/memory/g/memory.limit_in_bytes": "9223372036854771712",
                       "sys/fs/cgroup/memory/g/memory.usage_in_bytes": "5"}, None),
    ("0::/../odd\n", {}, None), ("nonsense\n", {}, None),
])
def test_control_groups_limits_count(tmp_path, groups, files, free):
    found = memory.host_room(machine(tmp_path, groups=groups, **files))
    if free is None:
        assert "machine" in found.what
    else:
        assert found.free == free and "control group" in found.what


def test_without_any_of_that_mlxs_own_limit_counts(tmp_path):
    assert "MLX" in memory.host_room(tmp_path).what


@pytest.mark.parametrize("text, expected", [("1000", 1000), (5, 5), ("2K", 2048), ("1.5g", 1.5 * GIB),
                                            ("3 MiB", 3 << 20), ("2GB", 2 * GIB)])
def test_limits_are_read(text, expected):
    assert memory.room(text).free == expected - mx.get_active_memory()


@pytest.mark.parametrize("value", ["lots", "-1", True, "5X", ""])
def test_other_limits_are_refused(value, monkeypatch):
    if value == "":
        monkeypatch.setenv(memory.VARIABLE, "12 apples")
        with pytest.raises(UsageError, match=memory.VARIABLE):
            memory.room()
        return
    with pytest.raises(UsageError, match="amount of memory"):
        memory.room(value)


def test_the_variable_counts_where_nothing_is_said(monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, "off")
    assert memory.room() is None
    monkeypatch.setenv(memory.VARIABLE, "1M")
    assert "MLXLM_MEMORY_LIMIT" in memory.room().what and memory.room("2M").what != memory.room().what


def test_a_model_that_does_not_fit_is_refused_with_figures(folder, monkeypatch):
    figures = r"\d+(\.\d)? [kM]B needed \(weights\).*at most \d.*memory_limit"
    with pytest.raises(MemoryLimitError, match=figures) as told:
        load(folder, memory_limit=1)
    assert str(folder) in str(told.value)
    monkeypatch.setenv(memory.VARIABLE, "1")
    with pytest.raises(MemoryLimitError, match="MLXLM_MEMORY_LIMIT"):
        load_model(folder)
    assert load(folder, memory_limit="off") and load_model(folder, lazy=True)


KINDS = ["qwen3-head-dim-24", "gemma3_text-pattern-2", "mistral-window", "deepseek_v3-yarn-mscale", "nemotron_h-moe",
         "falcon_h1-multipliers", "qwen3_next-delta-moe", "lfm2_moe-biased-choice", "llama4_text-chunks-experts"]


@pytest.mark.parametrize("name", KINDS)
def test_a_caches_cost_is_what_it_comes_to_take(name, tmp_path):
    case = next(c for c in CASES if c.name == name)
    model = load_model(reference.save(reference.build(case), tmp_path / "model"))
    cost = memory.CacheCost(model)
    for length in (1, 40, 600):
        cache = model.make_cache()
        for start in range(0, length, 100):
            model(mx.full((1, min(100, length - start)), 5), cache=cache)
            mx.eval(cache.arrays)
        estimate = cost.bytes(length, 100)
        assert cache.nbytes <= estimate <= 2 * cache.nbytes


def test_a_prompt_that_does_not_fit_is_refused_with_figures(loaded):
    model, processor = loaded
    prompt = [5] * 3000
    small = {"prefill_step_size": 64, "memory_limit": mx.get_active_memory() + 1_600_000}
    with pytest.raises(MemoryLimitError, match=r"1\.7 MB of cache for 3256 tokens.*to read them.*max_kv_size"):
        generate(model, processor, prompt, **small)
    # What bounds the cache, or packs it, makes room.
    assert generate(model, processor, prompt, max_kv_size=256, max_tokens=1, **small) is not None
    assert generate(model, processor, prompt, kv_bits=4, kv_group_size=32, quantized_kv_start=0, max_tokens=1,
                    **{**small, "memory_limit": small["memory_limit"] - 300_000}) is not None
    assert generate(model, processor, prompt, memory_limit="off", max_tokens=1) is not None
    assert generate(model, processor, prompt[:100], memory_limit=1, max_tokens=1) is not None  # not worth a look


def test_an_engine_keeps_to_its_budget(loaded):
    model, processor = loaded
    one = memory.CacheCost(model).bytes(1 + 30, 512)
    most, running = [], []

    def watch(tokens, logits):
        running.append(threading.get_ident())
        most.append(engine._loop.running)
        return logits

    with BatchEngine(model, processor, memory_budget=2 * one) as engine:
        requests = [engine.submit("x", max_tokens=30, logits_processors=[watch]) for _ in range(5)]
        found = {request.result() for request in requests}
        assert found == {generate(model, processor, "x", max_tokens=30)} and max(most) == 2
        with pytest.raises(MemoryLimitError, match="memory_budget"):
            engine.submit("x", max_tokens=5000)
        assert engine.open_requests == 0
    with BatchEngine(model, processor, memory_budget="off") as engine:
        assert engine.generate("x", max_tokens=2)


def test_a_dropped_model_gives_its_memory_back(tmp_path):
    big = tiny.checkpoint(tmp_path / "big", hidden_size=512, intermediate_size=4096, num_hidden_layers=6)
    code = f"""
        import mlx.core as mx
        from mlxlm import memory
        from mlxlm.load import load
        from mlxlm.generate import generate

        def resident():
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024

        def use():
            model, processor = load({str(big)!r})
            generate(model, processor, "hello", max_tokens=4)
            return resident(), mx.get_active_memory()

        use()  # what is loaded once stays
        memory.tidy()
        before = resident()
        during, active = use()
        memory.tidy()
        left = resident()
        assert active > 100e6, active
        assert during - before > 100e6, (before, during)
        assert left - before < 40e6, (before, during, left)
        assert mx.get_active_memory() < 1e6
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
