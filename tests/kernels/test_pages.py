"""Weights in large pages: the file's very bytes, memory that comes back, and errors instead of crashes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlxlm.checkpoint.safetensors import Folder
from mlxlm.errors import WeightError
from mlxlm.kernels import pages
from mlxlm.load import load_model
from mlxlm.memory import tidy

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

MB = 1 << 20
KINDS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U32": np.uint32, "I8": np.int8, "U8": np.uint8,
         "I64": np.int64, "BOOL": np.bool_, "F8_E4M3": np.uint8}


def folder_of(path, tensors):
    """A model folder of {name: (dtype's name, array)}."""
    header, end = {}, 0
    for name, (kind, array) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    data = b"".join(array.tobytes() for _, array in tensors.values())
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return Folder(path)


def resident():
    """Megabytes of this process's own memory, without what it has freed."""
    mx.synchronize()
    tidy()
    found = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(found["Anonymous"].split()[0]) / 1024


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": ("U32", rng.integers(0, 2**32, (2 * MB + i,), np.uint32)) for i in range(4)}  # 8 MB each
    return folder_of(tmp_path_factory.mktemp("large"), arrays), {name: array for name, (_, array) in arrays.items()}


@given(seed=st.integers(0, 2**31), shapes=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=12),
       order=st.randoms())
def test_each_tensor_has_the_files_bytes(tmp_path_factory, seed, shapes, order):
    rng = np.random.default_rng(seed)
    tensors = {}
    for i, shape in enumerate(shapes):
        kind = list(KINDS)[int(rng.integers(len(KINDS)))]
        raw = rng.integers(0, 2 if kind == "BOOL" else 100, shape).astype(KINDS[kind])
        tensors[f"t{i}"] = kind, np.asarray(raw)
    weights = folder_of(tmp_path_factory.getbasetemp() / "bytes", tensors).load_weights()
    assert set(weights) == set(tensors)
    names = list(tensors)
    order.shuffle(names)
    for name in names:
        kind, array = tensors[name]
        got = weights.pop(name)
        assert got.dtype == pages.DTYPES[kind] and got.shape == array.shape
        got = got.view(mx.uint16) if kind == "BF16" and got.ndim and got.size else got
        if kind != "BF16" or got.dtype == mx.uint16:
            np.testing.assert_array_equal(np.array(got), array)


def test_nothing_is_read_before_it_is_needed_and_all_of_it_comes_back(large):
    folder, arrays = large
    before, counted = resident(), mx.get_active_memory()
    weights = folder.load_weights()
    assert resident() - before < 2 and mx.get_active_memory() == counted
    mx.eval(weights)
    assert 32 <= resident() - before < 38
    assert 32 * MB <= mx.get_active_memory() - counted < 38 * MB
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.array(weights[name]), array)
    del weights["w1"]  # its own pages go, though its neighbours stay
    assert 23 <= resident() - before < 30
    np.testing.assert_array_equal(np.array(weights["w0"]), arrays["w0"])
    np.testing.assert_array_equal(np.array(weights["w2"]), arrays["w2"])
    weights.clear()
    assert resident() - before < 4 and mx.get_active_memory() == counted


def test_what_is_never_read_takes_nothing(large):
    folder, arrays = large
    before, counted = resident(), mx.get_active_memory()
    weights = folder.load_weights()
    one = weights["w2"][:8]
    del weights
    np.testing.assert_array_equal(np.array(one), arrays["w2"][:8])
    assert resident() - before < 14
    del one
    assert resident() - before < 4 and mx.get_active_memory() == counted


def test_several_threads_read_at_once(large):
    folder, arrays = large
    wrong = []

    def work(name):
        with mx.stream(mx.new_stream(mx.cpu)):
            if not np.array_equal(np.array(folder.load_weights()[name]), arrays[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in arrays]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_file_that_ends_before_it_is_read_is_an_error(large, tmp_path):
    rng = np.random.default_rng(1)
    folder = folder_of(tmp_path, {"w": ("F32", rng.standard_normal((3 * MB,)).astype(np.float32))})
    weights = folder.load_weights()
    os.truncate(tmp_path / "model.safetensors", 5 * MB)
    with pytest.raises(RuntimeError, match=r"^\[mlxlm.read\].*model.safetensors: it ends too early"):
        mx.eval(weights["w"])
    folder, arrays = large
    np.testing.assert_array_equal(np.array(folder.load_weights()["w3"]), arrays["w3"])  # and nothing hangs


def test_a_model_whose_file_ends_while_it_loads_is_told(tmp_path, monkeypatch):
    path = tiny.checkpoint(tmp_path / "model")

    def cut(*arguments):
        os.truncate(path / "model.safetensors", (path / "model.safetensors").stat().st_size - 4)

    monkeypatch.setattr("mlxlm.memory.check_weights", cut)
    with pytest.raises(WeightError, match=r"model.safetensors: it ends too early"):
        load_model(path)


def test_settled_weights_are_the_same_and_settling_again_moves_nothing():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.Linear(1024, 700, bias=False))
    turned = mx.array(rng.standard_normal((1024, 700)).astype(np.float32)).T
    thinned = mx.array(rng.integers(0, 99, (3, 8, 700)).astype(np.int8))[:, ::2]
    model.layers[0].bias = mx.array(rng.standard_normal(3072).astype(np.float32))[::3]
    model.layers[1].weight, model.layers[1].bias = turned, thinned
    wanted = [np.array(array) for _, array in tree_flatten(model.parameters())]
    pages.settle(model)
    mx.eval(model.parameters())
    for (_, array), want in zip(tree_flatten(model.parameters()), wanted, strict=True):
        np.testing.assert_array_equal(np.array(array), want)
        assert np.array(array, copy=False).flags.c_contiguous
    held = [array for _, array in tree_flatten(model.parameters())]
    pages.settle(model)
    assert all(a is b for a, (_, b) in zip(held, tree_flatten(model.parameters()), strict=True))


def test_a_view_of_a_larger_array_is_not_spread_out():
    wide = mx.broadcast_to(mx.arange(4, dtype=mx.float32), (1 << 20, 4))
    before = mx.get_active_memory()
    model = nn.Linear(4, 1, bias=False)
    model.weight = wide
    pages.settle(model)
    mx.eval(model.weight)
    assert mx.get_active_memory() - before < MB
    np.testing.assert_array_equal(np.array(model.weight[-1]), [0, 1, 2, 3])


FORKED = """
import os, sys
import mlx.core as mx
import numpy as np
from mlxlm.checkpoint.safetensors import Folder
weights = Folder(sys.argv[1]).load_weights()
mx.eval(weights)
total = int(np.array(weights["w1"]).astype(np.uint64).sum())
child = os.fork()
if child == 0:
    mine = int(np.array(weights["w1"]).astype(np.uint64).sum())
    weights.clear()
    os._exit(mine != total)
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status), int(np.array(weights["w1"]).astype(np.uint64).sum()) == total)
"""

WITHOUT = """
import ctypes, sys
assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE
import mlx.core as mx
import numpy as np
from mlxlm.checkpoint.safetensors import Folder
weights = Folder(sys.argv[1]).load_weights()
print(int(np.array(weights["w1"]).astype(np.uint64).sum()))
"""


def told(program, folder):
    done = subprocess.run([sys.executable, "-c", program, str(folder.path)], capture_output=True, text=True, check=True,
                          timeout=60)
    return done.stdout.split()


def test_a_forked_child_may_let_go_of_them(large):
    assert told(FORKED, large[0]) == ["0", "True"]


def test_systems_without_large_pages_read_all_the_same(large):
    folder, arrays = large
    assert told(WITHOUT, folder) == [str(int(arrays["w1"].astype(np.uint64).sum()))]
